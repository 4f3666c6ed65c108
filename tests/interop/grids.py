"""What a source checkpoint holds, by the description of its layout alone: codes, zero points and scales.

Every linear comes back as a Grid: one code, zero point and scale for each weight, [out, in], so that a weight is
scale * (code - zero) whatever the layout. First-generation Qwen and nested vision models come back under the names
that the output has, c_attn as q, k and v. Nothing here is shared with the tool. Sources may be GPTQ v1 or v2, AWQ
(GEMM, GEMV, GEMV fast), compressed-tensors (dense or padded words), serialised Marlin or MLX; MLX has no integer
zero points, so there `zero` is -bias / scale and `offset` is the bias.
"""
import copy
import json
import pathlib
import sys

import numpy as np

# Behind the stack's own packages: there is a gguf.py in that folder, and judges want the library of that name.
sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "oracle"))
from decode import OracleError, bit_stream, read_checkpoint, read_file  # noqa: E402
from families import flat_config, flat_name, qwen2_name  # noqa: E402

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble p of a word holds column 8c + AWQ_ORDER[p]
NO_BIAS = ("o_proj", "gate_proj", "up_proj", "down_proj")
PARTS = ("qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape",
         "weight_g_idx", "B", "s", "biases")


class Grid:
    def __init__(self, bits, codes, zero, scale, parts, group=None, offset=None):
        """`zero` and `scale` are [out, groups]; `group` says which of them each input has, by default equal runs."""
        self.bits, self.codes = bits, codes
        inputs, groups = codes.shape[1], scale.shape[1]
        runs = np.arange(inputs) // -(-inputs // groups)
        group = runs if group is None else group
        self.zero, self.scale = zero[:, group], scale[:, group]
        self.scale_dtype = next(parts[key].dtype for key in ("scales", "weight_scale", "s") if key in parts)
        self.offset = None if offset is None else offset[:, group]
        self.carried = self.offset  # -scale·zero as it is stored, where it is
        self.groups = groups
        self.act_order = bool((group != runs).any())

    def outputs(self, rows):
        """The grid of some of its outputs."""
        part = copy.copy(self)
        part.codes, part.zero, part.scale = self.codes[rows], self.zero[rows], self.scale[rows]
        part.offset, part.carried = (None if each is None else each[rows] for each in (self.offset, self.carried))
        return part

    def with_carried(self):
        """What a layout of offsets holds: the stored ones, as they are."""
        return self.scale * self.codes.astype(np.float32) + self.carried

    def weights(self, whole_zeros=False):
        """[out, in] in float32, one rounding at most, and none for scales of half precision.

        With `whole_zeros` MLX's offsets count as the nearest whole zero points, as layouts with integers hold them.
        """
        if self.offset is not None and not whole_zeros:
            return self.scale * self.codes.astype(np.float32) + self.offset
        return self.scale * (self.codes - self.zero).astype(np.float32)


def parts_of(name, tensors):
    return {part: tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in tensors}


def gptq(parts):
    scale = parts["scales"].float32()
    bits = parts["qzeros"].shape[1] * 32 // scale.shape[1]
    codes = bit_stream(parts["qweight"].array().T, bits)
    fields = bit_stream(parts["qzeros"].array(), bits)
    group = parts["g_idx"].array().astype(np.int64) if "g_idx" in parts else None
    return Grid(bits, codes, fields.T, scale.T, parts, group)


def settle_zero_points(grids):
    """Turns GPTQ's stored fields into zero points: v1 stores zero - 1, and the label may lie, so the data decides."""
    symmetric = all((grid.zero == grid.zero.flat[0]).all() for grid in grids.values())
    if symmetric:
        grid = next(iter(grids.values()))
        older = int(grid.zero.flat[0]) == 2 ** (grid.bits - 1) - 1
    else:
        older = np.mean([(grid.codes - grid.zero).mean() for grid in grids.values()]) > 0.5
    for grid in grids.values() if older else ():
        grid.zero = (grid.zero + 1) & (2 ** grid.bits - 1)


def awq_columns(words):
    """[rows, words] -> [rows, 8 * words], in the order of the columns."""
    nibbles = bit_stream(words, 4).reshape(len(words), -1, 8)
    columns = np.empty_like(nibbles)
    columns[:, :, AWQ_ORDER] = nibbles
    return columns.reshape(len(words), -1)


def awq_gemm(parts):
    codes = awq_columns(parts["qweight"].array()).T
    zero = awq_columns(parts["qzeros"].array()).T
    scale = parts["scales"].float32().T
    return Grid(4, codes, zero, scale, parts)


def awq_gemv(parts, group_size):
    codes = bit_stream(parts["qweight"].array(), 4)
    groups = 1 if group_size == -1 else codes.shape[1] // group_size
    zero = bit_stream(parts["qzeros"].array(), 4)[:, :groups]
    scale = parts["scales"].float32()[:, :groups]
    return Grid(4, codes, zero, scale, parts)


def awq_gemv_fast(parts, group_size):
    words = parts["qweight"].array().astype(np.uint16)
    outputs, inputs = len(words) * 4, words.shape[1]
    n, k = np.meshgrid(np.arange(outputs), np.arange(inputs), indexing="ij")
    column = k // 64 * 64 + n % 4 * 16 + k // 32 % 2 * 8 + k // 2 % 4 * 2 + k % 2
    codes = (words[n // 4, column] >> (4 * (k // 8 % 4))) & 15
    groups = 1 if group_size == -1 else inputs // group_size
    scale, product = (parts[key].float32()[:groups].T for key in ("scales", "qzeros"))
    zero = np.round(-product / scale).astype(np.int64)
    grid = Grid(4, codes.astype(np.int64), zero, scale, parts)
    grid.carried = np.repeat(product, inputs // groups, axis=1)
    return grid


def compressed_tensors(parts, bits):
    outputs, inputs = (int(size) for size in parts["weight_shape"].array())
    words = parts["weight_packed"].array()
    if words.shape[1] * 32 // bits >= inputs and words.shape[1] == -(-inputs * bits // 32):
        codes = bit_stream(words, bits)[:, :inputs]
    else:  # the 2025 form: whole codes only, the top bits of a word unused
        shifts = np.arange(32 // bits) * bits
        codes = (words.astype(np.uint32)[:, :, None] >> shifts) & (2 ** bits - 1)
        codes = codes.reshape(outputs, -1)[:, :inputs].astype(np.int64)
    scale = parts["weight_scale"].float32()
    if "weight_zero_point" in parts:
        zero = bit_stream(parts["weight_zero_point"].array().T, bits)[:, :outputs].T
    else:
        zero = np.full(scale.shape, 2 ** (bits - 1))
    return Grid(bits, codes, zero, scale, parts)


def marlin(parts):
    words = parts["B"].array().astype(np.uint32)
    inputs, outputs = len(words) * 16, words.shape[1] // 2
    n, k = np.meshgrid(np.arange(outputs), np.arange(inputs), indexing="ij")
    column = n // 64 * 128 + (n % 8 * 4 + k % 8 // 2) * 4 + n // 16 % 4
    nibble = k % 2 * 4 + n // 8 % 2 * 2 + k // 8 % 2
    codes = (words[k // 16, column] >> (4 * nibble).astype(np.uint32)) & 15
    stored = parts["s"].float32()
    scale = np.empty_like(stored)
    out = np.arange(outputs)
    if len(stored) > 1:  # position 8i + j of 64 holds column i + 8j
        source = out // 64 * 64 + out % 8 * 8 + out % 64 // 8
    else:  # position 8i + t of 32 holds column 2i + (0 1 8 9 16 17 24 25)[t]
        source = out // 32 * 32 + out % 32 // 8 * 2 + np.array([0, 1, 8, 9, 16, 17, 24, 25])[out % 8]
    scale[:, source] = stored
    return Grid(4, codes.astype(np.int64), np.full(scale.T.shape, 8), scale.T, parts)


def mlx(weight, parts, bits):
    codes = bit_stream(weight.array(), bits)
    scale, offset = parts["scales"].float32(), parts["biases"].float32()
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.round(-offset / scale)
    return Grid(bits, codes, zero, scale, parts, offset=offset)


def output_name(name):
    """What the output calls a tensor. First-generation Qwen's c_attn keeps its name: it becomes three (cut_c_attn)."""
    return flat_name(name) if ".c_attn." in name else qwen2_name(flat_name(name))


def cut_c_attn(held, size_of, rows_of):
    """Replaces what first-generation Qwen holds of q, k and v together, outputs one after another, by the three."""
    for name in [name for name in held if ".attn.c_attn" in name]:
        front, end = name.split(".attn.c_attn")
        whole, layer = held.pop(name), front.split(".")[-1]
        size = size_of(whole) // 3
        for i, part in enumerate("qkv"):
            held[f"model.layers.{layer}.self_attn.{part}_proj{end}"] = rows_of(whole, slice(i * size, (i + 1) * size))


def read(folder):
    """({linear: Grid}, {other tensor: float32 array}); biases of linears that have none, and are zero, are left out."""
    folder = pathlib.Path(folder)
    tensors = {output_name(name): tensor for name, tensor in read_checkpoint(folder).items()}
    config = flat_config(json.loads((folder / "config.json").read_text()))
    quantization = config.get("quantization_config") or config.get("quantization") or {}
    grids = {}
    names = {name.rsplit(".", 1)[0] for name in tensors}
    if any(name.endswith(".qzeros") for name in tensors) and quantization.get("quant_method") != "awq":
        grids = {name: gptq(parts_of(name, tensors)) for name in names if f"{name}.qweight" in tensors}
        settle_zero_points(grids)
    for name in sorted(names - set(grids)):
        parts = parts_of(name, tensors)
        if "weight_packed" in parts:
            weights = next(iter(quantization["config_groups"].values()))["weights"]
            grids[name] = compressed_tensors(parts, weights["num_bits"])
        elif "B" in parts:
            grids[name] = marlin(parts)
        elif "biases" in parts:
            grids[name] = mlx(tensors[f"{name}.weight"], parts, quantization["bits"])
        elif "qweight" in parts:
            version = quantization.get("format", quantization.get("version", "gemm")).lower()
            decoders = {"gemm": awq_gemm,
                        "gemv": lambda parts: awq_gemv(parts, quantization["group_size"]),
                        "gemv_fast": lambda parts: awq_gemv_fast(parts, quantization["group_size"])}
            if version not in decoders:
                raise OracleError(f"no decoder for AWQ {version}")
            grids[name] = decoders[version](parts)
    used = {f"{name}.{part}" for name in grids for part in PARTS} | {f"{name}.weight" for name in grids}
    others = {name: tensor.float32() for name, tensor in tensors.items() if name not in used}
    cut_c_attn(grids, lambda grid: len(grid.codes), Grid.outputs)
    cut_c_attn(others, len, lambda array, rows: array[rows])
    for name in [name for name in others if name.endswith(".bias") and name.split(".")[-2] in NO_BIAS]:
        if not others[name].any():
            del others[name]
    if config.get("tie_word_embeddings"):
        others.pop("lm_head.weight", None)
    return grids, others
