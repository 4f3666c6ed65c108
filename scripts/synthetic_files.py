"""The files of a synthetic checkpoint: safetensors, or a torch ZIP as torch.save writes it.

A tensor is (name, dtype, shape, maker); maker(name, shape) yields its bytes in pieces. A maker of None leaves
a hole: the file has its full size, and zeros there that take no room on the disk.
"""
import json
import os
import pickle
import struct
import zipfile

import numpy as np

SIZES = {"I32": 4, "F16": 2}
STORAGES = {"I32": "IntStorage", "F16": "HalfStorage"}
ALIGNMENT = 64  # of storages in a torch ZIP


def size_of(tensor):
    _, dtype, shape, _ = tensor
    return SIZES[dtype] * int(np.prod(shape))


def write_bytes(f, tensor):
    written = 0
    for piece in tensor[3](tensor[0], tensor[2]):
        written += f.write(np.ascontiguousarray(piece).data.cast("B"))
    assert written == size_of(tensor), tensor[0]


def write_safetensors(path, tensors, metadata):
    # The safetensors library's order: widest type first, then by name.
    tensors = sorted(tensors, key=lambda t: (-SIZES[t[1]], t[0]))
    header, at = {"__metadata__": metadata}, 0
    for t in tensors:
        name, dtype, shape, _ = t
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size_of(t)]}
        at += size_of(t)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors:
            if t[3] is None:
                f.seek(size_of(t), os.SEEK_CUR)
            else:
                write_bytes(f, t)
        f.truncate(f.tell())


def word(text):
    return pickle.BINUNICODE + struct.pack("<I", len(text.encode())) + text.encode()


def named(module, name):
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def numbers(values):
    return pickle.MARK + b"".join(pickle.BININT + struct.pack("<i", v) for v in values) + pickle.TUPLE


def state_dict(tensors):
    """The pickle of an OrderedDict of tensors, each alone in the storage of its number; as torch's, but without memo."""
    empty = named("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    out = [pickle.PROTO + b"\x02", empty, pickle.MARK]
    for i, (name, dtype, shape, _) in enumerate(tensors):
        strides = [int(np.prod(shape[axis + 1:])) for axis in range(len(shape))]
        elements = pickle.BININT + struct.pack("<i", int(np.prod(shape)))
        storage = pickle.MARK + word("storage") + named("torch", STORAGES[dtype]) + word(str(i)) + word("cpu") + elements + pickle.TUPLE + pickle.BINPERSID
        offset = pickle.BININT + struct.pack("<i", 0)
        arguments = pickle.MARK + storage + offset + numbers(shape) + numbers(strides) + pickle.NEWFALSE + empty + pickle.TUPLE
        out += [word(name), named("torch._utils", "_rebuild_tensor_v2"), arguments, pickle.REDUCE]
    return b"".join(out) + pickle.SETITEMS + pickle.STOP


def member(archive, name, size):
    """Opens a stored member whose bytes begin at a multiple of ALIGNMENT; torch pads with an extra field 'FB' too."""
    info = zipfile.ZipInfo(name)  # its date is 1980, so equal options give equal bytes
    padding = -(archive.fp.tell() + 30 + len(name) + 4) % ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    info.file_size = size
    return archive.open(info, "w")


def write_torch(path, tensors, _):
    stem = os.path.basename(path).removesuffix(".bin")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in ("data.pkl", state_dict(tensors)), ("byteorder", b"little"):
            with member(archive, f"{stem}/{name}", len(content)) as f:
                f.write(content)
        for i, t in enumerate(tensors):
            with member(archive, f"{stem}/data/{i}", size_of(t)) as f:
                write_bytes(f, t)
        with member(archive, f"{stem}/version", 2) as f:
            f.write(b"3\n")
