"""Reads checkpoints and decodes their linears, by the descriptions of the layouts alone.

This is an oracle: it shares no code and no ideas with the C++ tool, and prefers the obvious to the fast.

    W[k, n] = scale[g(k), n] * (code[k, n] - zero[g(k), n])      float32, exact for half-precision scales

Every packed layout is one little-endian bit stream along some axis, lowest bits first, but for Marlin and AWQ,
which shuffle the codes. In GPTQ 'v1' a zero field holds zero - 1 (all ones mean 0), elsewhere the zero itself.
"""

import dataclasses
import json
import pathlib

import numpy as np

import torch_file

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


def read_torch(path):
    return {name: Tensor(*parts) for name, parts in torch_file.read(path).items()}


def read_checkpoint(folder):
    """All tensors of a folder; each may be in one file only, and an index has to tell the truth."""
    folder = pathlib.Path(folder)
    tensors, where = {}, {}
    paths, index = sorted(folder.glob("*.safetensors")), folder / "model.safetensors.index.json"
    if not paths:
        paths, index = sorted([*folder.glob("*.bin"), *folder.glob("*.pt")]), folder / "pytorch_model.bin.index.json"
    for path in paths:
        for name, tensor in (read_file(path) if path.suffix == ".safetensors" else read_torch(path)).items():
            if name in tensors:
                raise OracleError(f"tensor '{name}' is in '{where[name]}' and in '{path.name}'")
            tensors[name], where[name] = tensor, path.name
    if not tensors:
        raise OracleError(f"no file of tensors in '{folder}'")
    if index.exists() and json.loads(index.read_text())["weight_map"] != where:
        raise OracleError("the index does not agree with the shards")
    return tensors


def bit_stream(words, bits):
    """[rows, words] of 32 bits -> [rows, codes], each row being one little-endian bit stream."""
    raw = np.ascontiguousarray(words).astype("<u4", casting="unsafe").view(np.uint8)
    ones = np.unpackbits(raw, axis=1, bitorder="little")
    count = ones.shape[1] // bits
    return ones[:, :count * bits].reshape(len(ones), count, bits) @ (1 << np.arange(bits))


@dataclasses.dataclass
class Linear:
    """One decoded linear; `offset` is there where the layout adds it instead of subtracting a zero point."""
    codes: np.ndarray           # [in, out]
    scale: np.ndarray           # [groups, out] float32
    zero: np.ndarray = None     # [groups, out]
    offset: np.ndarray = None   # [groups, out] float32
    group: np.ndarray = None    # [in]

    def __post_init__(self):
        inputs, groups = self.codes.shape[0], self.scale.shape[0]
        if self.group is None:
            if inputs % groups:
                raise OracleError(f"{inputs} inputs are no whole number of {groups} groups")
            self.group = np.arange(inputs) // (inputs // groups)
        if self.group.shape != (inputs,) or self.group.min() < 0 or self.group.max() >= groups:
            raise OracleError(f"the groups do not fit {inputs} inputs and {groups} groups")
        other = self.zero if self.offset is None else self.offset
        if other.shape != self.scale.shape or self.codes.shape[1] != self.scale.shape[1]:
            raise OracleError(f"codes {self.codes.shape}, zeros {other.shape} and scales {self.scale.shape} do not fit")

    def weights(self):
        """float32 [in, out]"""
        scale = self.scale[self.group]
        if self.offset is not None:
            return scale * self.codes.astype(np.float32) + self.offset[self.group]
        return scale * (self.codes - self.zero[self.group]).astype(np.float32)


def gptq(part, bits, zeros):
    codes = bit_stream(part["qweight"].array().T, bits).T
    fields = bit_stream(part["qzeros"].array(), bits)
    zero = (fields + 1) & (2 ** bits - 1) if zeros == "v1" else fields
    group = part["g_idx"].array().astype(np.int64) if "g_idx" in part else None
    return Linear(codes, part["scales"].float32(), zero, group=group)


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble p of a word is output 8c + AWQ_ORDER[p]


def awq_gemm(part):
    def unpack(words):
        nibbles = bit_stream(words.array(), 4).reshape(words.shape[0], -1, 8)
        out = np.empty_like(nibbles)
        out[:, :, AWQ_ORDER] = nibbles
        return out.reshape(words.shape[0], -1)
    return Linear(unpack(part["qweight"]), part["scales"].float32(), unpack(part["qzeros"]))


def awq_gemv(part, group_size):
    codes = bit_stream(part["qweight"].array(), 4).T
    groups = codes.shape[0] // group_size
    unit = {32: 4, 64: 2}.get(group_size, 1)
    width = -(-(-(-groups // 8)) // unit) * unit
    outputs = codes.shape[1]
    if part["qzeros"].shape != (outputs, width) or part["scales"].shape != (outputs, 8 * width):
        raise OracleError(f"gemv: qzeros {part['qzeros'].shape}, scales {part['scales'].shape}, {groups} groups, width {width}")
    zero, scale = bit_stream(part["qzeros"].array(), 4), part["scales"].float32()
    if zero[:, groups:].any() or scale[:, groups:].any():
        raise OracleError("gemv: what fills up a row is not zero")
    return Linear(codes, scale[:, :groups].T, zero[:, :groups].T)


def awq_gemv_fast(part, group_size):
    words = part["qweight"].array().view("<u2")
    inputs, outputs = words.shape[1], words.shape[0] * 4
    k, n = np.arange(inputs)[:, None], np.arange(outputs)[None]
    column = k // 64 * 64 + n % 4 * 16 + k // 32 % 2 * 8 + k // 2 % 4 * 2 + k % 2
    codes = words[n // 4, column] >> (4 * (k // 8 % 4)) & 15
    groups = inputs // group_size
    scale, offset = part["scales"].float32(), part["qzeros"].float32()
    if scale[groups:].any() or offset[groups:].any():
        raise OracleError("gemv_fast: what fills up the rows is not zero")
    scale, offset = scale[:groups], offset[:groups]
    zero = np.round(np.divide(-offset, scale, out=np.full_like(scale, 8), where=scale != 0)).astype(np.int64)
    if not np.array_equal((-scale * zero).astype(np.float16).astype(np.float32) + 0, offset + 0):
        raise OracleError("gemv_fast: an offset is not the rounded product of its scale and a whole zero point")
    return Linear(codes.astype(np.int64), scale, zero)


def marlin(part):
    words = part["B"].array().view("<u4")
    inputs, outputs = words.shape[0] * 16, words.shape[1] // 2
    k, n = np.arange(inputs)[:, None], np.arange(outputs)[None]
    column = n // 64 * 128 + (n % 8 * 4 + k % 8 // 2) * 4 + n // 16 % 4
    nibble = k % 2 * 4 + n // 8 % 2 * 2 + k // 8 % 2
    codes = (words[k // 16, column] >> (4 * nibble).astype(np.uint32) & 15).astype(np.int64)
    stored = part["s"].float32()
    if len(stored) > 1:  # stored[64b + 8i + j] = scale[64b + i + 8j]
        gather = [i + 8 * j for i in range(8) for j in range(8)]
    else:
        gather = [2 * i + o for i in range(4) for o in (0, 1, 8, 9, 16, 17, 24, 25)]
    scale = np.empty_like(stored).reshape(len(stored), -1, len(gather))
    scale[:, :, gather] = stored.reshape(scale.shape)
    scale = scale.reshape(stored.shape)
    return Linear(codes, scale, np.full(scale.shape, 8))


def compressed_tensors(part, bits, inputs, outputs):
    packed, per_word = part["weight_packed"], 32 // bits
    if packed.shape == (outputs, -(-inputs * bits // 32)):
        codes = bit_stream(packed.array(), bits)[:, :inputs].T
    elif packed.shape == (outputs, -(-inputs // per_word)):  # before 2026: no code lies over two words
        fields = packed.array().view("<u4")[:, :, None] >> (bits * np.arange(per_word, dtype=np.uint32)) & (2 ** bits - 1)
        codes = fields.reshape(outputs, -1)[:, :inputs].T.astype(np.int64)
    else:
        raise OracleError(f"weight_packed {packed.shape} does not fit {outputs} outputs and {inputs} inputs")
    if part["weight_shape"].array().tolist() != [outputs, inputs]:
        raise OracleError(f"weight_shape {part['weight_shape'].array()} is not {outputs}, {inputs}")
    scale = part["weight_scale"].float32().T
    zero = np.full(scale.shape, 2 ** (bits - 1))
    if "weight_zero_point" in part:
        words = part["weight_zero_point"].array()
        if words.shape[0] == -(-outputs * bits // 32):
            zero = bit_stream(words.T, bits)[:, :outputs]
        else:
            fields = words.T.view("<u4") if words.T.flags.c_contiguous else np.ascontiguousarray(words.T).view("<u4")
            fields = fields[:, :, None] >> (bits * np.arange(per_word, dtype=np.uint32)) & (2 ** bits - 1)
            zero = fields.reshape(scale.shape[0], -1)[:, :outputs].astype(np.int64)
    return Linear(codes, scale, zero)


def mlx(part, bits):
    return Linear(bit_stream(part["weight"].array(), bits).T, part["scales"].float32().T, offset=part["biases"].float32().T)


PARTS = {"gptq": ("qweight", "qzeros", "scales", "g_idx"), "awq": ("qweight", "qzeros", "scales"), "marlin": ("B", "s"),
         "compressed-tensors": ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point"),
         "mlx": ("weight", "scales", "biases")}
FIRST = {"gptq": "qweight", "awq": "qweight", "marlin": "B", "compressed-tensors": "weight_packed", "mlx": "biases"}


def decode_linear(part, method, form, bits, group_size, shape):
    """`shape` is (inputs, outputs) by the architecture; `form` the word of the config for a variant."""
    if method == "gptq":
        linear = gptq(part, bits, "v2" if form == "gptq_v2" else "v1")
    elif method == "awq":
        size = shape[0] if group_size == -1 else group_size
        linear = awq_gemm(part) if form == "gemm" else awq_gemv(part, size) if form == "gemv" else awq_gemv_fast(part, size)
    elif method == "marlin":
        linear = marlin(part)
    elif method == "compressed-tensors":
        linear = compressed_tensors(part, bits, *shape)
    else:
        linear = mlx(part, bits)
    if linear.codes.shape != shape:
        raise OracleError(f"{linear.codes.shape} codes instead of {shape}")
    return linear


def decode_checkpoint(tensors, method, form, settings, shapes):
    """({linear: Linear}, {other tensor: Tensor}); biases stay with the others.

    `settings(prefix)` is (bits, group_size), `shapes` {prefix: (inputs, outputs)} of all linears that may be quantised.
    """
    linears, taken = {}, set()
    for prefix in sorted(shapes):
        if method is None or f"{prefix}.{FIRST[method]}" not in tensors:
            continue
        part = {suffix: tensors[f"{prefix}.{suffix}"] for suffix in PARTS[method] if f"{prefix}.{suffix}" in tensors}
        bits, group_size = settings(prefix)
        try:
            linears[prefix] = decode_linear(part, method, form, bits, group_size, shapes[prefix])
        except (OracleError, KeyError) as error:
            raise OracleError(f"'{prefix}': {type(error).__name__}: {error}") from error
        groups = 1 if group_size == -1 else -(-shapes[prefix][0] // group_size)
        if len(linears[prefix].scale) != groups:
            raise OracleError(f"'{prefix}' has {len(linears[prefix].scale)} groups, the config says {groups}")
        taken |= {f"{prefix}.{suffix}" for suffix in part}
    return linears, {name: tensor for name, tensor in tensors.items() if name not in taken}
