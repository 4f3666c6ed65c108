"""Reads PyTorch files of weights without PyTorch, for the oracle: Python's own zipfile and pickle, and numpy for views.

    {name: (dtype, shape, bytes)}, dtypes named as in safetensors, elements row-major

`find_class` below knows a handful of names and gives functions of this file for them; nothing else is imported.
"""

import collections
import io
import pickle
import struct
import zipfile

import numpy as np

STORAGES = {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64", "IntStorage": "I32",
            "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL", "ComplexFloatStorage": "C64"}
SCALARS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "uint16": "U16", "uint32": "U32", "uint64": "U64"}
WIDTHS = {"C64": 8, "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1}


class Storage:
    def __init__(self, dtype, key, count, start=0):
        self.dtype, self.key, self.count, self.start = dtype, key, count, start


class View:
    """Elements of a storage: what a tensor is until the storages are read."""

    def __init__(self, storage, offset, size, stride, dtype=None):
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)
        self.dtype = dtype or storage.dtype

    def read(self, raw):
        width = WIDTHS[self.dtype]
        if 0 in self.size:
            return self.dtype, self.size, b""
        items = np.frombuffer(raw, f"V{width}", offset=self.storage.start)[self.offset:]
        view = np.lib.stride_tricks.as_strided(items, self.size, [step * width for step in self.stride])
        return self.dtype, self.size, np.ascontiguousarray(view).tobytes()


CALLS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): View,
    ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, size, stride, *rest: View(storage, offset, size, stride),
    ("torch._utils", "_rebuild_tensor_v3"): lambda storage, offset, size, stride, grad, hooks, dtype, *rest: View(storage, offset, size, stride, dtype),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *rest: tensor,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *rest: tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): lambda call, kind, arguments, state: call(*arguments),
    ("torch", "Tensor"): None,
    ("torch.nn.parameter", "Parameter"): None,
    ("torch", "Size"): tuple,
    ("torch.storage", "UntypedStorage"): "U8",
}


class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in SCALARS:
            return SCALARS[name]
        if (module, name) not in CALLS:
            raise ValueError(f"the pickle names {module}.{name}")
        return CALLS[module, name]

    def persistent_load(self, pid):
        kind, dtype, key, _, count, *view = pid
        if kind != "storage":
            raise ValueError(f"a persistent id of kind {kind}")
        start = view[0][1] * WIDTHS[dtype] if view and view[0] else 0
        return Storage(dtype, key, count, start)


def read_zip(path):
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        state = Reader(io.BytesIO(archive.read(name))).load()
        folder = name[:-len("data.pkl")]
        return {key: view.read(archive.read(f"{folder}data/{view.storage.key}")) for key, view in tensors_of(state).items()}


def read_legacy(path):
    with open(path, "rb") as file:
        magic, version, system, state, keys = [Reader(file).load() for _ in range(5)]
        if magic != 0x1950a86a20f9469cfc6c or version != 1001 or not system["little_endian"]:
            raise ValueError(f"'{path}' is no PyTorch file that this reads")
        views, raw = tensors_of(state), {}
        widths = {view.storage.key: WIDTHS[view.storage.dtype] for view in views.values()}
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            raw[key] = file.read(count * widths[key])
        return {key: view.read(raw[view.storage.key]) for key, view in views.items()}


def tensors_of(state):
    for key in (None, "state_dict", "model_state_dict", "model", "module"):
        inner = state if key is None else state.get(key)
        if isinstance(inner, dict) and any(isinstance(value, View) for value in inner.values()):
            return {name: value for name, value in inner.items() if isinstance(value, View)}
    raise ValueError("no state dict")


def read(path):
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\3\4"
    return read_zip(path) if zipped else read_legacy(path)
