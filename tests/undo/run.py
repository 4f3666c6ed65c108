#!/usr/bin/python3
"""Converts with --undo, restores, and compares every file with the original.

    run.py --binary=PATH [--jobs=N] [NAME...]

Every fixture for every target; then originals that a converter would not write, but that must come back all the same;
then records and outputs that were damaged. Prints each failure and a count, exits 1 if any failed.
"""

import argparse
import concurrent.futures
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "malformed"))

import checkpoint as ck  # noqa: E402

RECORD = "qwen2-convert.undo.zst"
# What cannot be undone; a layout may stay what it is.
ONE_WAY_TARGETS = ("dense-", "gguf", "mlx", "marlin")
ONE_WAY_SOURCES = ("marlin", "mlx")
MORE = (("awq", "--layout=awq-gemv"), ("awq", "--layout=awq-gemv-fast"), ("compressed-tensors", "--layout=compressed-tensors-2025"),
        ("vllm", "--layout=gptq-v1"), ("transformers-5.x", "--shard-size=200KB"))
LEAST_RESTORED = 300  # fixtures × targets that must come through, so that the test cannot pass by refusing


class Failed(Exception):
    pass


def run(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments), "--quiet", "--jobs=2"], capture_output=True, text=True)
    finding = re.search(r"\[([a-z0-9-]+)\]$", done.stderr.strip())
    return done.returncode, finding[1] if finding else "", done.stderr.strip()


def files(folder):
    return {path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mode & 0o777) for path in folder.iterdir()}


def need(condition, text):
    if not condition:
        raise Failed(text)


def convert(binary, source, out, target, *options):
    code, _, stderr = run(binary, source, out, f"--target={target}", "--undo", "--verify=hash", *options)
    need(code == 0, f"converting failed: {stderr}")


def restore_equals(binary, original, out, back):
    before = files(out)
    code, _, stderr = run(binary, "--restore", out, back)
    need(code == 0, f"restoring failed: {stderr}")
    meant, found = files(original), files(back)
    need(meant == found, f"differ: {sorted(name for name in meant.keys() | found.keys() if meant.get(name) != found.get(name))}")
    need(before == files(out), "the output was changed")


def method_of(source):
    """As the config says it; GGUF has none."""
    config = source / "config.json"
    quantisation = json.loads(config.read_text()) if config.exists() else {}
    if "quantization" in quantisation:
        return "mlx"
    quantisation = quantisation.get("quantization_config", {})
    return "marlin" if quantisation.get("is_marlin_format") or quantisation.get("checkpoint_format") == "marlin" else quantisation.get("quant_method", "")


def keeps_qkv_as_one(source):
    """First-generation Qwen, whose linears are cut; --undo does not join them again."""
    return json.loads((source / "config.json").read_text()).get("model_type") == "qwen"


def fixture_for_target(binary, scratch, source, target, *options):
    """True if it was restored, False if it was refused as it should be."""
    out = scratch / "out"
    code, finding, stderr = run(binary, source, out, f"--target={target}", "--undo", "--verify=hash", *options)
    one_way = target.startswith(ONE_WAY_TARGETS) or method_of(source) in ONE_WAY_SOURCES or any(source.glob("*.gguf")) or keeps_qkv_as_one(source)
    if code != 0:
        need(code in (2, 65, 69), f"exit {code}: {stderr}")
        need(not finding.startswith("undo-") or one_way, f"refused: {stderr}")
        need(not out.exists() and not list(scratch.iterdir()), "something was written")
        return False
    restore_equals(binary, source, out, scratch / "back")
    if not one_way:
        return True
    manifest = json.loads((out / "qwen2-convert.manifest.json").read_text())
    need(all(tensor["exactness"] == "same-bytes" for tensor in manifest["tensors"]), "a conversion that cannot be undone was taken")
    return True


# ---- originals with peculiarities ----

def copy(scratch, fixture):
    source = scratch / "in"
    shutil.copytree(ROOT / "fixtures" / fixture / "checkpoint", source)
    return source


def modes(binary, scratch):
    source = copy(scratch, "published-int4-g128-sharded")
    for mode, path in zip((0o600, 0o755, 0o640, 0o444, 0o664), sorted(source.iterdir())):
        path.chmod(mode)
    convert(binary, source, scratch / "out", "awq")
    restore_equals(binary, source, scratch / "out", scratch / "back")


def unordered_header(binary, scratch):
    """Names in another order than the data, spaces behind, metadata of its own."""
    source = copy(scratch, "autogptq-0.7.1-int4-g32-asym-tied")
    path = next(source.glob("*.safetensors"))
    ck.edit_text(path, lambda header: json.dumps(dict(reversed(json.loads(header).items())), indent=1).encode() + b"   ")
    convert(binary, source, scratch / "out", "compressed-tensors")
    restore_equals(binary, source, scratch / "out", scratch / "back")


def unordered_data(binary, scratch):
    source = copy(scratch, "gptqmodel-7.7-awq-g64")
    path = next(source.glob("*.safetensors"))
    ck.write_tensors(path, dict(reversed(ck.read_tensors(path).items())), {"format": "pt", "made by": "hand"})
    convert(binary, source, scratch / "out", "transformers-5.x")
    restore_equals(binary, source, scratch / "out", scratch / "back")


def used_padding(binary, scratch):
    """The two spare bits of the padded 3-bit words are set: no codec brings them back."""
    source = copy(scratch, "foreign/compressed-tensors-0.11-int3-g128-padded")

    def spoil(tensors):
        changed = 0
        for name, (dtype, shape, raw) in tensors.items():
            if name.endswith(".weight_packed") and changed < 3:
                raw = bytearray(raw)
                raw[3::400] = bytes(byte | 0x80 for byte in raw[3::400])
                tensors[name] = (dtype, shape, bytes(raw))
                changed += 1

    ck.edit_tensors(next(source.glob("*.safetensors")), spoil)
    for target in ("compressed-tensors", "transformers-5.x"):
        convert(binary, source, scratch / target, target)
        restore_equals(binary, source, scratch / target, scratch / ("back-" + target))


def negative_zero_bias(binary, scratch):
    source = copy(scratch, "published-int4-g128-sharded")

    def spoil(tensors):
        for name, (dtype, shape, raw) in tensors.items():
            if name.endswith("down_proj.bias"):
                tensors[name] = (dtype, shape, b"\x00\x80" * (len(raw) // 2))

    for path in source.glob("*.safetensors"):
        ck.edit_tensors(path, spoil)
    convert(binary, source, scratch / "out", "transformers-4.x")
    restore_equals(binary, source, scratch / "out", scratch / "back")


def twins(binary, scratch):
    """A tensor that lies in two shards is no reason to keep it."""
    source = copy(scratch, "published-int4-g128-sharded")
    name = "model.embed_tokens.weight"
    shards = {path: ck.read_tensors(path) for path in sorted(source.glob("*.safetensors"))}
    holder = next(path for path, tensors in shards.items() if name in tensors)
    other = next(path for path in shards if path != holder)
    embedding = shards[holder][name]
    ck.edit_tensors(other, lambda tensors: tensors.update({name: embedding}))
    convert(binary, source, scratch / "out", "transformers-4.x")
    restore_equals(binary, source, scratch / "out", scratch / "back")
    need((scratch / "out" / RECORD).stat().st_size < len(embedding[2]) // 2, "the record holds the twin")


def dropped_and_stale(binary, scratch):
    """--drop, files that are not carried over, a tensor of no use, empty files."""
    source = copy(scratch, "autogptq-0.7.1-int4-g128-sym")
    ck.edit_tensors(next(source.glob("*.safetensors")), lambda tensors: tensors.update({"extra.calibration": ("F16", [3000], bytes(range(250)) * 24)}))
    (source / "modeling_qwen.py").write_text("raise SystemExit\n")
    (source / "training_args.bin").write_bytes(b"\x80\x02 no weights")
    (source / "SHA256SUMS").write_text("0" * 64 + "  nothing\n")
    (source / "empty.txt").write_bytes(b"")
    (source / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    convert(binary, source, scratch / "out", "transformers-4.x", "--drop=extra.*")
    restore_equals(binary, source, scratch / "out", scratch / "back")


def two_steps(binary, scratch):
    """A conversion of a conversion is taken back step by step, the first record included."""
    source = copy(scratch, "gptqmodel-7.7-int4-g64-asym-v2")
    convert(binary, source, scratch / "one", "awq")
    convert(binary, scratch / "one", scratch / "two", "compressed-tensors")
    restore_equals(binary, scratch / "one", scratch / "two", scratch / "one-again")
    restore_equals(binary, source, scratch / "one-again", scratch / "back")


def same_whatever_jobs(binary, scratch):
    source = ROOT / "fixtures/published-int4-g128-sharded/checkpoint"
    for jobs in (1, 3):
        done = subprocess.run([binary, source, scratch / str(jobs), "--target=awq", "--undo", "--verify=none", "--quiet", f"--jobs={jobs}"])
        need(done.returncode == 0, "converting failed")
    need(files(scratch / "1") == files(scratch / "3"), "the outputs differ")


# ---- damage ----

def refused(binary, scratch, code, finding, out):
    before = sorted(scratch.iterdir())
    found = run(binary, "--restore", out, scratch / "back")
    need(found[:2] == (code, finding), f"expected {code} [{finding}], got {found}")
    need(sorted(scratch.iterdir()) == before, "something was written")


def damaged(binary, scratch):
    source = ROOT / "fixtures/published-int4-g128-sharded/checkpoint"
    out = scratch / "out"
    convert(binary, source, out, "awq")
    # any changed byte of any file
    for path in sorted(out.iterdir()):
        if path.name in (RECORD, "SHA256SUMS", "qwen2-convert.manifest.json"):
            continue
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
            refused(binary, scratch, 65, "undo-changed", out)
        path.write_bytes(whole[:-1])
        refused(binary, scratch, 65, "undo-changed", out)
        path.unlink()
        refused(binary, scratch, 65, "undo-changed", out)
        path.write_bytes(whole)
    # the record itself; tests/unit flips every bit
    path = out / RECORD
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 24)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1:])
        found = run(binary, "--restore", out, scratch / "back")
        need(found[:2] == (65, "undo-damaged"), f"byte {at} of the record: {found}")
        need(not (scratch / "back").exists(), "something was written")
    for content in (b"", whole[:-1], whole[:100], whole + b"\0", whole + whole):
        path.write_bytes(content)
        refused(binary, scratch, 65, "undo-damaged", out)
    # another output's record
    other = scratch / "other"
    convert(binary, source, other, "compressed-tensors")
    path.write_bytes((other / RECORD).read_bytes())
    refused(binary, scratch, 65, "undo-changed", out)
    path.unlink()
    refused(binary, scratch, 69, "undo-missing", out)
    path.write_bytes(whole)
    restore_equals(binary, source, out, scratch / "back")


CASES = (modes, unordered_header, unordered_data, used_padding, negative_zero_bias, twins, dropped_and_stale, two_steps, same_whatever_jobs, damaged)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    binary = str(pathlib.Path(arguments.binary).resolve())
    listed = json.loads(subprocess.run([binary, "--list-targets", "--json"], capture_output=True, check=True, text=True).stdout)
    targets = [(target["name"],) for target in listed["targets"]] + list(MORE)
    work = []
    for path in sorted((ROOT / "fixtures").glob("**/checkpoint")):
        for target in targets:
            name = f"{path.parent.relative_to(ROOT / 'fixtures')} {' '.join(target)}"
            work.append((name, lambda scratch, path=path, target=target: fixture_for_target(binary, scratch, path, *target)))
    for case in CASES:
        work.append((case.__name__, lambda scratch, case=case: case(binary, scratch) or True))
    if arguments.names:
        work = [(name, job) for name, job in work if any(part in name for part in arguments.names)]

    def one(item):
        name, job = item
        with tempfile.TemporaryDirectory(prefix="q2c-undo-") as folder:
            try:
                return name, job(pathlib.Path(folder)), ""
            except Exception as failure:  # pylint: disable=broad-except
                return name, False, f"{type(failure).__name__}: {failure}"

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(one, work))
    failures = [(name, why) for name, _, why in results if why]
    for name, why in failures:
        print(f"FAILED {name}: {why}")
    restored = sum(done for _, done, _ in results)
    print(f"{restored} restored, {len(results) - restored - len(failures)} refused as they should be, {len(failures)} failed")
    if not arguments.names and restored < LEAST_RESTORED:
        print(f"FAILED: expected at least {LEAST_RESTORED} restored")
        return 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
