"""Tools to take a good checkpoint apart and to put a broken one together.

A `Box` is what one case may change: the copied checkpoint, the options, where the output goes.
Nothing here looks at the C++ sources; the format is written down again from its description.
"""

import json
import pathlib
import shutil
import struct
import subprocess
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "oracle"))

import made as wide  # noqa: E402

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "fixtures"
BASES = {
    "sharded": "published-int4-g128-sharded",             # 3 shards and an index
    "single": "autogptq-0.7.1-int4-g128-sym",             # one file
    "tied": "published-int8-g128-tied",                   # lm_head stored although tied
    "perchannel": "autogptq-0.7.1-int4-perchannel-actorder",
    "moe": "autogptq-0.7.1-moe-int4-g64",
    "torch": "autogptq-0.5.1-int4-g128-bin",              # one PyTorch file
}
# What this tool makes of a fixture, at test time: fixture, options.
CONVERTED = {
    "awq": ("autogptq-0.7.1-int4-g32-asym-tied", "--target=awq"),
    "awq-gemv": ("autogptq-0.7.1-int4-g32-asym-tied", "--target=awq", "--layout=awq-gemv"),
    "awq-gemv-fast": ("autogptq-0.7.1-int4-g32-asym-tied", "--target=awq", "--layout=awq-gemv-fast", "--allow-rounding"),
    "compressed-tensors": ("autogptq-0.7.1-int4-g32-asym-tied", "--target=compressed-tensors"),
    "compressed-tensors-2025": ("autogptq-0.7.1-int3-g128-sym", "--target=compressed-tensors", "--layout=compressed-tensors-2025"),
    "mlx": ("autogptq-0.7.1-int4-g32-asym-tied", "--target=mlx", "--allow-rounding"),
    "marlin": (None, "--target=marlin"),   # of a made checkpoint: no fixture is wide enough
    "gptqmodel-v2": ("optimum-1.19.2-int4-g128-sharded", "--target=gptqmodel-v2", "--shard-size=5GB"),
    "gguf": ("published-int4-g128-sharded", "--target=gguf"),
}
SHARD = "model-0000{}-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


class Skip(Exception):
    """This case cannot be made on this machine; the text says why."""


class Bases:
    """Folders of good checkpoints; those of CONVERTED are made once, by `binary`, below `root`."""

    def __init__(self, binary, root):
        self.binary, self.root = binary, root

    def folder(self, base):
        if base in BASES:
            return FIXTURES / BASES[base] / "checkpoint"
        made = self.root / base
        if not made.exists():
            fixture, *options = CONVERTED[base]
            source = FIXTURES / fixture / "checkpoint" if fixture else self.root / "wide"
            if fixture is None:
                wide.write(source, 4, 128, True)
            run = subprocess.run([self.binary, source, made, *options, "--quiet"], capture_output=True, text=True)
            if run.returncode != 0:
                raise RuntimeError(f"the base '{base}' cannot be made: {run.stderr}")
            for name in ("SHA256SUMS", "qwen2-convert.manifest.json"):
                (made / name).unlink()
        return made


class Box:
    def __init__(self, root, checkpoint):
        self.root = root
        self.input = root / "in"
        self.parent = root / "parent"     # of the output folder
        self.out = self.parent / "out"
        self.options = []
        self.as_nobody = False
        self.max_open_files = None
        self.during = None                # called with the process stopped just after it made its staging entry
        self.parent.mkdir()
        shutil.copytree(checkpoint, self.input)

    def shard(self, number=3):
        """Path of a shard; the only file where there is just one."""
        sharded = self.input / SHARD.format(number)
        return sharded if sharded.exists() else next(self.input.glob("*.safetensors"))


# ---- safetensors files ----

def read_raw(path):
    """(header bytes, data bytes)"""
    blob = path.read_bytes()
    end = 8 + int.from_bytes(blob[:8], "little")
    return blob[8:end], blob[end:]


def write_raw(path, header, data, length=None):
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def read_header(path):
    return json.loads(read_raw(path)[0])


def dump(header):
    return json.dumps(header, separators=(",", ":")).encode()


def edit_header(path, edit):
    """`edit` changes the header dictionary in place; the data stays."""
    header, data = read_raw(path)
    header = json.loads(header)
    edit(header)
    write_raw(path, dump(header), data)


def edit_text(path, edit):
    """`edit` maps the header's bytes to other bytes; the data stays."""
    header, data = read_raw(path)
    write_raw(path, edit(header), data)


def read_tensors(path):
    """{name: (dtype, shape, bytes)} in the order of the data"""
    header, data = read_raw(path)
    header = json.loads(header)
    header.pop("__metadata__", None)
    entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return {name: (e["dtype"], e["shape"], data[slice(*e["data_offsets"])]) for name, e in entries}


def write_tensors(path, tensors, metadata=None):
    header, at = {"__metadata__": metadata or {"format": "pt"}}, 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    text = dump(header)
    write_raw(path, text + b" " * (-len(text) % 8), b"".join(raw for _, _, raw in tensors.values()))


def edit_tensors(path, edit):
    """`edit` changes the dictionary of tensors in place; the file is then written afresh and is well formed."""
    tensors = read_tensors(path)
    edit(tensors)
    write_tensors(path, tensors)


def add_entry(path, name, dtype, shape, data_bytes, fill=b"\0"):
    """Appends a tensor with any claim about itself and `data_bytes` bytes of data."""
    header, data = read_raw(path)
    header = json.loads(header)
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + data_bytes]}
    write_raw(path, dump(header), data + fill * data_bytes)


# ---- JSON files beside them ----

def edit_json(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value, indent=2))


def edit_config(box, edit):
    edit_json(box.input / "config.json", edit)


def edit_quantisation(box, edit):
    """The same edit in both places that hold the quantisation settings."""
    edit_config(box, lambda config: edit(config["quantization_config"]))
    edit_json(box.input / "quantize_config.json", edit)


def edit_index(box, edit):
    edit_json(box.input / INDEX, edit)


def edit_weight_map(box, edit):
    edit_index(box, lambda index: edit(index["weight_map"]))


def refresh_index(box):
    """Makes the index tell the truth again after tensors were added or removed."""
    index = {"metadata": {"total_size": 0}, "weight_map": {}}
    for path in sorted(box.input.glob("*.safetensors")):
        for name, (_, _, raw) in read_tensors(path).items():
            index["weight_map"][name] = path.name
            index["metadata"]["total_size"] += len(raw)
    (box.input / INDEX).write_text(json.dumps(index, indent=2))


def write_sparse(path, size, head=b""):
    """A file of `size` bytes of which only `head` takes room on the disk."""
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(size)



# ---- pieces the tables of cases are written with ----

def set_entry(path, name, literal):
    """Replaces the header entry of `name` by any text, JSON or not."""
    header, data = read_raw(path)
    header = json.loads(header)
    header[name] = "@entry@"
    write_raw(path, dump(header).replace(b'"@entry@"', literal), data)


def append_text(path, literal):
    """Adds any text as the last member of the header."""
    edit_text(path, lambda header: header.rstrip()[:-1] + b"," + literal + b"}")


def rename_to_model(box):
    """Gives a single file the name every loader knows, and metadata that claim nothing."""
    path = box.shard()
    write_tensors(box.input / "model.safetensors", read_tensors(path))
    path.unlink()
