#!/usr/bin/python3
"""Small jobs for the command-line cases.

    helper.py big FOLDER                          a valid checkpoint of about 100 MB
    helper.py wide FOLDER                         a small one of 256 outputs and more, symmetric, which Marlin can hold
    helper.py nan-norm FOLDER                     makes one element of layer 1's first norm NaN
    helper.py halves FOLDER TENSOR DTYPE INDEX HEX  sets the 16 bits of an element, calls the type F16 or BF16
    helper.py quantised-head FOLDER               puts a copy of layer 0's up_proj in the place of the head
    helper.py swap-merges FOLDER                  swaps the first two merges in tokenizer.json
    helper.py add-tensor FILE NAME [COUNT [HEX]]  adds an F16 tensor of 4 ones, or as many halves as said, to a safetensors file
    helper.py scatter FIXTURE FOLDER              a fixture of which only down_proj is scattered over its groups
    helper.py differ CHECKPOINT HOW FOLDER NAME...  a copy in which these linears, of 4 bits and symmetric, are float or have 8 bits
    helper.py set FILE KEY VALUE...               sets keys of a JSON file
    helper.py foreign CHECKPOINT FOLDER           a checkpoint as a model of an unknown type with tensor names of its own
    helper.py hub CHECKPOINT CACHE NAME           puts a checkpoint into a Hub cache, as links to blobs; prints the snapshot folder
    helper.py tensors FOLDER                      prints 'name dtype shape', sorted
    helper.py json FILE EXPRESSION                checks a Python expression over the parsed file, called 'd'
    helper.py same FOLDER FOLDER                  checks that both hold the same tensors, whatever the shards
    helper.py stop SIGNAL FOLDER -- COMMAND...    runs COMMAND, sends SIGNAL as soon as something appears in FOLDER, exits as it did
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

sys.path += [str(pathlib.Path(__file__).resolve().parents[1] / name) for name in ("malformed", "oracle")]

import numpy as np  # noqa: E402

import channels  # noqa: E402
import made  # noqa: E402
import make_big  # noqa: E402
from checkpoint import edit_tensors, read_tensors  # noqa: E402
from decode import bit_stream  # noqa: E402


def tensors_of(folder):
    return {name: tensor for path in sorted(pathlib.Path(folder).glob("*.safetensors")) for name, tensor in read_tensors(path).items()}


def big(folder):
    make_big.main(pathlib.Path(folder))


def wide(folder):
    made.write(pathlib.Path(folder), 4, 128, True)


def add_tensor(path, name, count=4, bits="3c00"):
    edit_tensors(pathlib.Path(path), lambda tensors: tensors.update({name: ("F16", [int(count)], int(bits, 16).to_bytes(2, "little") * int(count))}))


def scatter(fixture, folder):
    channels.write(fixture, folder)


def differ(checkpoint, how, folder, *names):
    """The weights stay the same, and `dynamic` says what is true."""
    shutil.copytree(checkpoint, folder)

    def edit(tensors):
        for name in names:
            part = {suffix: np.frombuffer(data, {"I32": "<i4", "F16": "<f2"}[dtype]).reshape(shape)
                    for suffix in ("qweight", "qzeros", "scales", "g_idx") for dtype, shape, data in [tensors.pop(f"{name}.{suffix}")]}
            codes = bit_stream(part["qweight"].T, 4).astype(np.int64) - 8
            if how == "float":
                made_parts = {"weight": (codes * part["scales"][part["g_idx"]].T.astype(np.float64)).astype(np.float16)}
            else:
                zeros = np.full(part["scales"].shape, 127)  # v1: one less than the zero point
                made_parts = {**part, "qweight": np.ascontiguousarray(made.pack(codes + 128, 8).T), "qzeros": made.pack(zeros, 8)}
            for suffix, array in made_parts.items():
                tensors[f"{name}.{suffix}"] = ({"int32": "I32", "float16": "F16"}[str(array.dtype)], list(array.shape), array.tobytes())
    edit_tensors(pathlib.Path(folder) / "model.safetensors", edit)
    rules = {("-:" if how == "float" else "+:") + name.replace(".", "\\."): {} if how == "float" else {"bits": int(how)} for name in names}
    for name in ("config.json", "quantize_config.json"):
        document = json.loads((pathlib.Path(folder) / name).read_text())
        document.get("quantization_config", document)["dynamic"] = rules
        (pathlib.Path(folder) / name).write_text(json.dumps(document))


def set_keys(path, *pairs):
    document = json.loads(pathlib.Path(path).read_text())
    document.update({key: json.loads(value) for key, value in zip(pairs[::2], pairs[1::2], strict=True)})
    pathlib.Path(path).write_text(json.dumps(document, indent=2))


def nan_norm(folder):
    name = "model.layers.1.input_layernorm.weight"
    path = next(p for p in pathlib.Path(folder).glob("*.safetensors") if name in read_tensors(p))

    def edit(tensors):
        dtype, shape, data = tensors[name]
        tensors[name] = (dtype, shape, b"\xff\x7f" + data[2:])
    edit_tensors(path, edit)


def halves(folder, name, dtype, index, bits):
    path = next(p for p in sorted(pathlib.Path(folder).glob("*.safetensors")) if name in read_tensors(p))

    def edit(tensors):
        _, shape, data = tensors[name]
        at = 2 * int(index)
        tensors[name] = (dtype, shape, data[:at] + int(bits, 16).to_bytes(2, "little") + data[at + 2:])
    edit_tensors(path, edit)


def quantised_head(folder):
    path = next(p for p in sorted(pathlib.Path(folder).glob("*.safetensors")) if "lm_head.weight" in read_tensors(p))
    source = "model.layers.0.mlp.up_proj."
    parts = {name.removeprefix(source): tensor for name, tensor in tensors_of(folder).items() if name.startswith(source) and not name.endswith(".bias")}

    def edit(tensors):
        del tensors["lm_head.weight"]
        tensors.update({f"lm_head.{part}": tensor for part, tensor in parts.items()})
    edit_tensors(path, edit)


def swap_merges(folder):
    path = pathlib.Path(folder) / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    merges = tokenizer["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    path.write_text(json.dumps(tokenizer))


def foreign(checkpoint, folder):
    """Names and config that no architecture has."""
    shutil.copytree(checkpoint, folder)
    words = (("model.layers.", "stack.body."), ("self_attn.", "mix."), ("mlp.", "wide."), ("_proj", ""), ("model.embed_tokens", "words"), ("model.norm", "last"), ("lm_head", "out"))

    def rename(tensors):
        for name in list(tensors):
            other = name
            for ours, theirs in words:
                other = other.replace(ours, theirs)
            tensors[other] = tensors.pop(name)
    for path in pathlib.Path(folder).glob("*.safetensors"):
        edit_tensors(path, rename)
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    kept = {key: config[key] for key in ("torch_dtype", "quantization_config") if key in config}
    (pathlib.Path(folder) / "config.json").write_text(json.dumps({"model_type": "other", "architectures": ["OtherModel"], **kept}))


def hub(checkpoint, cache, name):
    """As huggingface_hub lays it out: blobs/<digest>, snapshots/<commit>/<file> -> ../../blobs/<digest>, refs/main."""
    commit = hashlib.sha1(name.encode()).hexdigest()
    base = pathlib.Path(cache) / ("models--" + name.replace("/", "--"))
    snapshot, blobs = base / "snapshots" / commit, base / "blobs"
    for folder in (snapshot, blobs, base / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (base / "refs/main").write_text(commit)
    for path in sorted(pathlib.Path(checkpoint).iterdir()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blobs / digest)
        (snapshot / path.name).symlink_to(f"../../blobs/{digest}")
    print(snapshot)


def tensors(folder):
    # In one piece: a reader such as grep -q may stop at the first line that fits.
    lines = [f"{name} {dtype} {','.join(map(str, shape))}\n" for name, (dtype, shape, _) in sorted(tensors_of(folder).items())]
    sys.stdout.write("".join(lines))


def json_check(path, expression):
    document = json.loads(pathlib.Path(path).read_text())
    if not eval(expression, {"d": document}):
        sys.exit(f"not true of {path}: {expression}")


def same(one, other):
    a, b = tensors_of(one), tensors_of(other)
    if a != b or not a:
        sys.exit(f"they differ, e.g. in {[name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)][:3]}")


def stop(signal_name, folder, dashes, *command):
    assert dashes == "--"
    before = set(os.listdir(folder))
    process = subprocess.Popen(command)
    while set(os.listdir(folder)) == before:
        if process.poll() is not None:
            sys.exit(f"it ended with {process.returncode} before anything appeared in the folder")
        time.sleep(0.0002)
    process.send_signal(getattr(signal, signal_name))
    code = process.wait()
    sys.exit(128 - code if code < 0 else code)  # as a shell would say it


if __name__ == "__main__":
    jobs = {"big": big, "differ": differ, "wide": wide, "scatter": scatter, "set": set_keys, "add-tensor": add_tensor, "nan-norm": nan_norm, "halves": halves, "quantised-head": quantised_head, "foreign": foreign, "swap-merges": swap_merges, "hub": hub, "tensors": tensors, "json": json_check, "same": same, "stop": stop}
    if len(sys.argv) < 2 or sys.argv[1] not in jobs:
        sys.exit(__doc__)
    jobs[sys.argv[1]](*sys.argv[2:])
