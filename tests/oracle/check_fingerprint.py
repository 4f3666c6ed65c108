#!/usr/bin/python3
"""Holds qwen2-audit --fingerprint against the second implementation in fingerprint.py, and both against what they promise.

    check_fingerprint.py FIXTURES_DIR CONVERT AUDIT
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile

import check_fixture
import fingerprint
from decode import OracleError, read_file

# What keeps codes, zero points and scales keeps qlf1; what keeps the weights keeps values.
KEEPS_QLF1 = ("transformers-4.x", "transformers-5.x", "gptqmodel-v2", "compressed-tensors", "awq", "marlin")
KEEPS_VALUES = KEEPS_QLF1 + ("gguf", "mlx", "dense-fp32")
FLIPS = 1000
FLIPPED = "published-int4-g128-sharded"


def require(condition, message):
    if not condition:
        raise OracleError(message)


def audit(binary, folder):
    """(values, qlf1), or None where the folder is refused"""
    run = subprocess.run([binary, folder, "--fingerprint"], capture_output=True, text=True)
    if run.returncode != 0:
        return None
    rows = [line.split() for line in run.stdout.splitlines()]
    require([row[0] for row in rows] == ["values", "qlf1"] and all(len(row) == 2 for row in rows), f"two lines were expected: {run.stdout}")
    return rows[0][1], rows[1][1]


def is_read_again(fixture):
    """Can the second implementation read the source itself? It knows neither pickles nor first-generation Qwen."""
    return any(fixture.glob("checkpoint/*.safetensors")) and "qwen1" not in fixture.name


def again(fixture):
    config, linears, others = check_fixture.read_source(fixture)
    block = config.get("quantization_config") or json.loads((fixture / "checkpoint/quantize_config.json").read_text())
    claim = check_fixture.Claim(config, block)
    declared = {name for name, (bias, _, _) in check_fixture.all_linears(config).items() if bias}
    return fingerprint.of_checkpoint(config, claim.per_module, declared, linears, others)


def convert(binary, source, out, target):
    options = ["--allow-rounding"] if target == "mlx" else []
    run = subprocess.run([binary, source, out, f"--target={target}", "--verify=exact", "--json", *options], capture_output=True, text=True)
    return json.loads(run.stdout) if run.returncode == 0 else None


def check_fixture_digests(fixture, tools, temp):
    convert_binary, audit_binary = tools
    source = audit(audit_binary, fixture / "checkpoint")
    require(source is not None, "the source was refused")
    readable = fixture
    if not is_read_again(fixture):
        readable = temp / f"{fixture.name}-again"
        readable.mkdir()
        require(convert(convert_binary, fixture / "checkpoint", readable / "checkpoint", "transformers-4.x") is not None, "it was refused for transformers-4.x")
    require(source == again(readable), "the second implementation disagrees")
    kept = {"values": 0, "qlf1": 0}
    for target in KEEPS_VALUES:
        out = temp / f"{fixture.name}-{target}"
        said = convert(convert_binary, fixture / "checkpoint", out, target)
        if said is None:
            continue
        made = audit(audit_binary, out)
        require(made == (said["fingerprint"]["values"], said["fingerprint"]["qlf1"]), f"{target}: the report has another fingerprint than the audit")
        manifest = json.loads((out / "qwen2-convert.manifest.json").read_text())
        require(manifest["fingerprint"] == said["fingerprint"], f"{target}: the manifest has another fingerprint than the report")
        split = any(linear["group_size"] != linear["source_group_size"] for linear in manifest["linears"])
        if target in KEEPS_QLF1 and not split:
            require(made[1] == source[1], f"{target}: qlf1 changed")
            kept["qlf1"] += 1
        if said["exactness"] != "rounded":
            require(made[0] == source[0], f"{target}: values changed")
            kept["values"] += 1
    require(kept["values"] >= 1, f"no conversion keeps the values: {kept}")
    return f"{kept['qlf1']} outputs with equal qlf1, {kept['values']} with equal values"


def write_file(path, tensors, metadata, order):
    header, data = {"__metadata__": metadata}, b""
    for name in order:
        tensor = tensors[name]
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(tensor.raw)]}
        data += tensor.raw
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


def copy_sides(source, out):
    out.mkdir()
    for path in source.iterdir():
        if not path.name.startswith("model"):
            (out / path.name).write_bytes(path.read_bytes())


def all_tensors(source):
    tensors = {}
    for path in sorted(source.glob("*.safetensors")):
        tensors.update(read_file(path))
    return tensors


def check_what_does_not_count(source, audit_binary, temp):
    tensors = all_tensors(source)
    wanted = audit(audit_binary, source)
    names = sorted(tensors)
    shuffled = random.Random(1).sample(names, len(names))
    renamed = {f"module.{name}": tensor for name, tensor in tensors.items()}
    half = len(names) // 2
    cases = {
        "order": [("model.safetensors", tensors, {"format": "pt"}, shuffled)],
        "metadata": [("model.safetensors", tensors, {"format": "pt", "who": "somebody else"}, names)],
        "prefix": [("model.safetensors", renamed, {"format": "pt"}, sorted(renamed))],
        "shards": [("model-00001-of-00002.safetensors", tensors, {"format": "pt"}, names[:half]), ("model-00002-of-00002.safetensors", tensors, {"format": "pt"}, names[half:])],
    }
    for case, files in cases.items():
        out = temp / f"same-{case}"
        copy_sides(source, out)
        for name, held, metadata, order in files:
            write_file(out / name, held, metadata, order)
        require(audit(audit_binary, out) == wanted, f"another {case} changes the fingerprint")
    return f"{len(cases)} changes that mean nothing"


def check_flips(source, audit_binary, temp):
    """Single bits of the payload; the sign of a zero in a bias that the architecture does not have means nothing."""
    tensors = all_tensors(source)
    wanted = audit(audit_binary, source)
    path = temp / "flipped"
    copy_sides(source, path)
    names = sorted(tensors)
    write_file(path / "model.safetensors", tensors, {"format": "pt"}, names)
    data = bytearray((path / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    bits = random.Random(2)
    unseen, digests = [], set()
    for _ in range(FLIPS):
        name = bits.choice(names)
        size = len(tensors[name].raw)
        at = bits.randrange(8 * size)
        if name.endswith("_proj.bias") and not any(tensors[name].raw) and at % 16 == 15:
            continue
        place = start + sum(len(tensors[n].raw) for n in names[:names.index(name)]) + at // 8
        with open(path / "model.safetensors", "r+b") as file:
            file.seek(place)
            file.write(bytes([data[place] ^ 1 << at % 8]))
        seen = audit(audit_binary, path)
        if seen is not None and seen[1] == wanted[1]:
            unseen.append(f"{name}:{at}")
        digests.add(seen)
        with open(path / "model.safetensors", "r+b") as file:
            file.seek(place)
            file.write(bytes([data[place]]))
    require(not unseen, f"not noticed: {unseen[:5]}")
    require(audit(audit_binary, path) == wanted, "the file was not put right again")
    return f"{FLIPS} flipped bits, {len(digests)} different outcomes"


def main(arguments):
    if len(arguments) != 3:
        sys.exit(__doc__)
    fixtures, *tools = arguments
    failed = 0

    def report(name, check):
        nonlocal failed
        try:
            print(f"ok   {name:44} {check()}", flush=True)
        except (OracleError, KeyError, ValueError, OSError) as error:
            failed += 1
            print(f"FAIL {name:44} {type(error).__name__}: {error}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        temp = pathlib.Path(folder)
        for fixture in sorted(pathlib.Path(fixtures).resolve().iterdir()):
            if (fixture / "checkpoint/config.json").exists():
                report(fixture.name, lambda: check_fixture_digests(fixture, tools, temp))
        source = pathlib.Path(fixtures).resolve() / FLIPPED / "checkpoint"
        report("what does not count", lambda: check_what_does_not_count(source, tools[1], temp))
        report("single bits", lambda: check_flips(source, tools[1], temp))
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
