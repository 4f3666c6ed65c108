"""Writes PyTorch files without PyTorch, opcode by opcode, so that each of them can be made wrong.

`{name: (dtype, shape, bytes)}`, dtypes named as in safetensors.
"""

import struct
import zipfile

STORAGES = {"F64": "DoubleStorage", "F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "I64": "LongStorage", "I32": "IntStorage",
            "I16": "ShortStorage", "I8": "CharStorage", "U8": "ByteStorage", "BOOL": "BoolStorage"}
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
ORDERED = b"ccollections\nOrderedDict\n)R"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03."


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    if 0 <= value < 256:
        return bytes([ord("K"), value])
    width = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([width]) + value.to_bytes(width, "little", signed=True)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage_id(kind, key, elements, view=b""):
    return b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(elements) + view + b"tQ"


def row_major(shape):
    strides, step = [], 1
    for dim in reversed(shape):
        strides.insert(0, step)
        step *= dim
    return strides


def tensor(storage, shape, strides=None, offset=0):
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers(shape) + numbers(strides or row_major(shape)) + b"\x89" + ORDERED + b"tR"


def items(tensors, view=b""):
    """The names and tensors of a state dict; every tensor has a storage of its own, numbered from 0."""
    out = b""
    for key, (name, (dtype, shape, raw)) in enumerate(tensors.items()):
        out += text(name) + tensor(storage_id(STORAGES[dtype], str(key), len(raw) // WIDTHS[dtype], view), list(shape))
    return out


def pickled(content, front=b"\x80\x02"):
    return front + ORDERED + b"(" + content + b"u."


def write_zip(path, pickle, storages, folder="archive", edit=None):
    """`edit` may change the list of (ZipInfo, bytes) before it is written."""
    members = [(folder + "/data.pkl", pickle)] + [(f"{folder}/data/{key}", raw) for key, raw in enumerate(storages)] + [(folder + "/version", b"3\n")]
    members = [(zipfile.ZipInfo(name), raw) for name, raw in members]
    if edit:
        members = edit(members) or members
    with zipfile.ZipFile(path, "w") as archive:
        for info, raw in members:
            archive.writestr(info, raw)


def write_legacy(path, pickle, tensors, little=b"\x88"):
    keys = b"".join(text(str(key)) for key in range(len(tensors)))
    out = LEGACY + b"\x80\x02}(" + text("protocol_version") + b"M\xe9\x03" + text("little_endian") + little + b"u." + pickle + b"\x80\x02](" + keys + b"e."
    for dtype, _, raw in tensors.values():
        out += struct.pack("<q", len(raw) // WIDTHS[dtype]) + raw
    path.write_bytes(out)
