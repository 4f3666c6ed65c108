"""Reads safetensors checkpoints and decodes GPTQ linears, by the description of the layout alone.

This is an oracle: it shares no code and no ideas with the C++ tool, and prefers the obvious to the fast.

    W[k, n] = scale[g(k), n] * (code[k, n] - zero[g(k), n])      float32, exact for half-precision scales

Codes are one little-endian bit stream down each column of qweight, zero fields the same along each row of
qzeros, lowest bits first. In 'v1' a field holds zero - 1 (a field of all ones means 0), in 'v2' the zero itself.
"""

import json
import pathlib

import numpy as np

NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
               "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "u1", "BF16": "<u2"}


class OracleError(Exception):
    """The checkpoint does not say what the oracle was told to expect."""


class Tensor:
    """One stored tensor: its dtype name, its shape and its bytes as they are in the file."""

    def __init__(self, dtype, shape, raw):
        self.dtype = dtype
        self.shape = tuple(shape)
        self.raw = raw

    def array(self):
        """The stored numbers; BF16 comes back as uint16 bit patterns."""
        return np.frombuffer(self.raw, NUMPY_TYPES[self.dtype]).reshape(self.shape)

    def float32(self):
        if self.dtype == "BF16":  # the upper half of a float32
            return (self.array().astype(np.uint32) << 16).view(np.float32)
        if self.dtype not in ("F16", "F32"):
            raise OracleError(f"dtype {self.dtype} where a float was expected")
        return self.array().astype(np.float32)

    def same_bytes(self, other):
        return (self.dtype, self.shape, self.raw) == (other.dtype, other.shape, other.raw)


def read_file(path):
    data = pathlib.Path(path).read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + header_bytes])
    header.pop("__metadata__", None)
    start = 8 + header_bytes
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = Tensor(entry["dtype"], entry["shape"], data[start + begin:start + end])
    return tensors


def read_checkpoint(folder):
    """All tensors of a folder; each may be in one file only, and an index has to tell the truth."""
    folder = pathlib.Path(folder)
    tensors, where = {}, {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in read_file(path).items():
            if name in tensors:
                raise OracleError(f"tensor '{name}' is in '{where[name]}' and in '{path.name}'")
            tensors[name], where[name] = tensor, path.name
    if not tensors:
        raise OracleError(f"no safetensors file in '{folder}'")
    index = folder / "model.safetensors.index.json"
    if index.exists() and json.loads(index.read_text())["weight_map"] != where:
        raise OracleError("the index does not agree with the shards")
    return tensors


def bit_stream(words, bits):
    """[rows, words] of 32 bits -> [rows, codes], each row being one little-endian bit stream."""
    raw = np.ascontiguousarray(words).astype("<u4", casting="unsafe").view(np.uint8)
    ones = np.unpackbits(raw, axis=1, bitorder="little")
    count = ones.shape[1] // bits
    return ones[:, :count * bits].reshape(len(ones), count, bits) @ (1 << np.arange(bits))


def decode_linear(tensors, prefix, bits, group_size, zeros):
    """The float32 matrix [in, out] of one quantised linear; `zeros` is 'v1' or 'v2'."""
    part = {suffix: tensors[f"{prefix}.{suffix}"] for suffix in ("qweight", "qzeros", "scales")}
    codes = bit_stream(part["qweight"].array().T, bits).T
    fields = bit_stream(part["qzeros"].array(), bits)
    zero = (fields + 1) & (2 ** bits - 1) if zeros == "v1" else fields
    scale = part["scales"].float32()
    inputs = codes.shape[0]
    if f"{prefix}.g_idx" in tensors:
        group = tensors[f"{prefix}.g_idx"].array().astype(np.int64)
    else:
        group = np.arange(inputs) // (inputs if group_size == -1 else group_size)
    if group.shape != (inputs,) or group.min() < 0 or group.max() >= scale.shape[0]:
        raise OracleError(f"'{prefix}.g_idx' does not fit {inputs} inputs and {scale.shape[0]} groups")
    if zero.shape != scale.shape or codes.shape[1] != scale.shape[1]:
        raise OracleError(f"'{prefix}': codes {codes.shape}, zeros {zero.shape} and scales {scale.shape} do not fit")
    return scale[group] * (codes - zero[group]).astype(np.float32)


def quantised_linears(tensors):
    return sorted(name[:-len(".qweight")] for name in tensors if name.endswith(".qweight"))


def decode_checkpoint(tensors, bits, group_size, zeros):
    """{linear: float32 [in, out]} and {other tensor: Tensor}; biases stay with the others."""
    linears = {prefix: decode_linear(tensors, prefix, bits, group_size, zeros)
               for prefix in quantised_linears(tensors)}
    parts = {f"{prefix}.{suffix}" for prefix in linears for suffix in ("qweight", "qzeros", "scales", "g_idx")}
    return linears, {name: tensor for name, tensor in tensors.items() if name not in parts}
