"""L01-L12: the parts of every layout, GGUF files, and formats that are not read.

The bases are what this tool itself makes of a fixture, see checkpoint.CONVERTED; a row damages that.
"""

import json
import struct

from case import Case
from checkpoint import edit_config, edit_json, edit_tensors

UP = "model.layers.0.mlp.up_proj"        # 128 inputs, 512 outputs
DOWN = "model.layers.0.mlp.down_proj"    # 512 inputs, 128 outputs
TARGET = "gptqmodel-v2"
WIDTH = {"F16": 2, "BF16": 2, "I16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8}

# base: the parts of a linear with their dtypes
PARTS = {
    "awq": {"qweight": "I32", "qzeros": "I32", "scales": "F16"},
    "awq-gemv": {"qweight": "I32", "qzeros": "I32", "scales": "F16"},
    "awq-gemv-fast": {"qweight": "I16", "qzeros": "F16", "scales": "F16"},
    "compressed-tensors": {"weight_packed": "I32", "weight_scale": "F16", "weight_zero_point": "I32", "weight_shape": "I64"},
    "compressed-tensors-2025": {"weight_packed": "I32", "weight_scale": "F16", "weight_shape": "I64"},
    "mlx": {"weight": "U32", "scales": "F16", "biases": "F16"},
    "marlin": {"B": "I32", "s": "F16"},
    "gptqmodel-v2": {"qweight": "I32", "qzeros": "I32", "scales": "F16", "g_idx": "I32"},
}
SCALES = {"compressed-tensors": "weight_scale", "compressed-tensors-2025": "weight_scale", "marlin": "s"}
OPTIONAL = {("gptqmodel-v2", "g_idx"), ("compressed-tensors", "weight_shape"), ("compressed-tensors-2025", "weight_shape")}


def edit(name, change):
    """`change` maps (dtype, shape, bytes) of a stored tensor to another, or to None."""
    def work(tensors):
        made = change(*tensors[name])
        if made is None:
            tensors.pop(name)
        else:
            tensors[name] = made
    return lambda box: edit_tensors(box.shard(), work)


def reshaped(shape_of):
    def change(dtype, shape, raw):
        made = shape_of(list(shape))
        size = WIDTH[dtype]
        for dimension in made:
            size *= dimension
        return dtype, made, (raw * (size // len(raw) + 1))[:size]
    return change


def retyped(dtype):
    def change(old, shape, raw):
        return dtype, shape, (raw * 8)[:len(raw) // WIDTH[old] * WIDTH[dtype]]
    return change


def filled(at, form, value):
    def change(dtype, shape, raw):
        size = struct.calcsize(form)
        return dtype, shape, raw[:at * size] + struct.pack(form, value) + raw[(at + 1) * size:]
    return change


def add(name, dtype, shape):
    size = WIDTH[dtype]
    for dimension in shape:
        size *= dimension
    return lambda box: edit_tensors(box.shard(), lambda tensors: tensors.update({name: (dtype, shape, b"\0" * size)}))


def weights(**keys):
    return lambda box: edit_config(box, lambda c: c["quantization_config"]["config_groups"]["group_0"]["weights"].update(keys))


def groups(value):
    return lambda box: edit_config(box, lambda c: c["quantization_config"].update(config_groups=value))


def settings(**keys):
    return lambda box: edit_config(box, lambda c: c["quantization_config"].update(keys))


def mlx_settings(**keys):
    return lambda box: edit_config(box, lambda c: [c[key].update(keys) for key in ("quantization", "quantization_config")])


# ---- GGUF ----

def gguf(change):
    """`change` maps the bytes of the only file to others."""
    def damage(box):
        path = next(box.input.glob("*.gguf"))
        path.write_bytes(change(path.read_bytes()))
    return damage


def patched(marker, offset, form, value):
    """Overwrites a number that lies `offset` bytes behind the first occurrence of a name."""
    def change(data):
        at = data.index(marker) + len(marker) + offset
        made = bytearray(data)
        struct.pack_into("<" + form, made, at, value)
        return bytes(made)
    return change


def first_scale(name, pattern):
    """Overwrites the scale of the first block of a tensor of two dimensions; token_embd.weight is the last of the table."""
    def change(data):
        (offset,) = struct.unpack_from("<Q", data, data.index(name) + len(name) + 24)
        start = -(-(data.index(b"token_embd.weight") + len(b"token_embd.weight") + 32) // 32) * 32
        made = bytearray(data)
        struct.pack_into("<H", made, start + offset, pattern)
        return bytes(made)
    return change


def replaced(old, new):
    assert len(old) == len(new)
    return lambda data: data.replace(old, new, 1)


def two_models(box):
    path = next(box.input.glob("*.gguf"))
    (box.input / "other.gguf").write_bytes(path.read_bytes())


def renamed(name):
    return lambda box: next(box.input.glob("*.gguf")).rename(box.input / name)


# ---- formats that are not read ----

def foreign(method, suffix=None, dtype="I32", shape=(8, 8)):
    """Declares a method, and has one part of it in the place of a linear's own."""
    def work(box):
        def edit_all(tensors):
            if suffix:
                for part in ("qweight", "qzeros", "scales", "g_idx"):
                    tensors.pop(f"{UP}.{part}", None)
                size = WIDTH[dtype]
                for dimension in shape:
                    size *= dimension
                tensors[f"{UP}.{suffix}"] = (dtype, list(shape), b"\0" * size)
        edit_tensors(box.shard(), edit_all)
        for name in ("config.json", "quantize_config.json"):
            if (box.input / name).exists():
                edit_json(box.input / name, lambda c: (c["quantization_config"] if name == "config.json" else c).update(quant_method=method))
    return work


def rows():
    def row(id, name, damage, expect, says="", **options):
        return Case(id, name, damage, expect, says, **{"target": TARGET, **options})

    for base, parts in PARTS.items():
        target = {"gptqmodel-v2": "transformers-4.x"}.get(base, TARGET)
        for part, dtype in parts.items():
            # the scales say how many groups there are: other parts are then what does not fit
            tensor = UP if part == SCALES.get(base, "scales") else rf"{UP}(?=.*\b{part}\b)"
            yield row("L01", f"{base}: {part} one row short", edit(f"{UP}.{part}", reshaped(lambda s: [s[0] - 1, *s[1:]])), 65, tensor, base=base, target=target)
            if part not in ("g_idx", "weight_shape"):
                yield row("L01", f"{base}: {part} one column more", edit(f"{UP}.{part}", reshaped(lambda s: [s[0], s[1] + 1])), 65, tensor, base=base, target=target)
                yield row("L01", f"{base}: {part} flat", edit(f"{UP}.{part}", reshaped(lambda s: [s[0] * s[1]])), 65, tensor, base=base, target=target)
            yield row("L01", f"{base}: {part} empty", edit(f"{UP}.{part}", reshaped(lambda s: [0, *s[1:]])), 65, tensor, base=base, target=target)
            for other in ("F32", "I32") if dtype in ("I64",) else ("I64", "F32") if dtype.startswith(("I", "U")) else ("I32", "I64"):
                yield row("L02", f"{base}: {part} in {other}", edit(f"{UP}.{part}", retyped(other)), 65, UP, base=base, target=target)
            if (base, part) in OPTIONAL:
                yield row("L03", f"{base}: {part} missing", edit(f"{UP}.{part}", lambda *_: None), (0, 65), UP, base=base, target=target)
            elif part == "weight_zero_point":  # then symmetric, which the config and the tensors of others deny
                yield row("L03", f"{base}: {part} missing", edit(f"{UP}.{part}", lambda *_: None), (0, 65), UP, base=base, target=target)
            else:
                yield row("L03", f"{base}: {part} missing", edit(f"{UP}.{part}", lambda *_: None), 65, UP, base=base, target=target)
        scale = SCALES.get(base, "scales")
        for label, value in (("NaN", 0x7E00), ("infinite", 0x7C00)):
            yield row("L04", f"{base}: a scale is {label}", edit(f"{DOWN}.{scale}", filled(5, "<H", value)), 65, rf"{DOWN}\.{scale}", base=base, target=target)
        yield row("L05", f"{base}: a part of nobody", add(f"{UP}.extra", "I32", [4]), 69, rf"{UP}\.extra.*--drop", base=base, target=target)
        yield row("L05", f"{base}: the weight as well", add(f"{UP}.weight", "F16", [512, 128]) if base != "mlx" else add(f"{UP}.qweight", "I32", [16, 512]), (65, 69), UP, base=base, target=target)

    # order maps
    for label, make in (("has a member too many in a group", lambda v: [0] * 129 + v[129:]), ("skips a group", lambda v: [min(g, 2) for g in v]), ("is out of range", lambda v: [4] + v[1:]), ("is negative", lambda v: [-1] + v[1:])):
        def order(dtype, shape, raw, make=make):
            values = list(struct.unpack(f"<{len(raw) // 4}i", raw))
            return dtype, shape, struct.pack(f"<{len(values)}i", *make(values))
        yield row("L06", f"the order map {label}", edit(f"{DOWN}.g_idx", order), 65, rf"{DOWN}\.g_idx", base="gptqmodel-v2", target="transformers-4.x")

    # zero points and offsets
    yield row("L07", "gemv_fast: an offset between two zero points", edit(f"{DOWN}.qzeros", filled(3, "<e", -0.0123)), 69, DOWN, base="awq-gemv-fast")
    yield row("L07", "gemv_fast: an offset beyond all zero points", edit(f"{DOWN}.qzeros", filled(3, "<e", -1000.0)), 69, DOWN, base="awq-gemv-fast")
    yield row("L07", "gemv_fast: an offset above zero", edit(f"{DOWN}.qzeros", filled(3, "<e", 1.0)), 69, DOWN, base="awq-gemv-fast")
    yield row("L07", "gemv_fast: an offset of NaN", edit(f"{DOWN}.qzeros", filled(3, "<H", 0x7E00)), (65, 69), DOWN, base="awq-gemv-fast")
    yield row("L07", "mlx: an offset between two zero points", edit(f"{DOWN}.biases", filled(3, "<e", -0.0123)), 69, DOWN, base="mlx")
    yield row("L07", "mlx: an offset beyond all zero points", edit(f"{DOWN}.biases", filled(3, "<e", -1000.0)), 69, DOWN, base="mlx")
    for label, value in (("NaN", 0x7E00), ("infinite", 0xFC00)):
        yield row("L07", f"mlx: an offset is {label}", edit(f"{DOWN}.biases", filled(3, "<H", value)), (65, 69), DOWN, base="mlx")
    yield row("L07", "weight_shape of another linear", edit(f"{UP}.weight_shape", filled(0, "<q", 128)), 65, rf"{UP}\.weight_shape", base="compressed-tensors")
    yield row("L07", "weight_shape negative", edit(f"{UP}.weight_shape", filled(1, "<q", -128)), 65, rf"{UP}\.weight_shape", base="compressed-tensors")

    # configs
    for label, value in (("missing", None), ("a list", []), ("empty", {}), ("a number", 4), ("of a number", {"group_0": 4}), ("without weights", {"group_0": {}}), ("of null weights", {"group_0": {"weights": None}})):
        yield row("L08", f"config_groups {label}", groups(value), 65, "config_groups|weights", base="compressed-tensors")
    yield row("L08", "weights of floats", weights(type="float"), 69, "float", base="compressed-tensors")
    yield row("L08", "num_bits 8 over 4-bit tensors", weights(num_bits=8), 65, "weight_packed|bits", base="compressed-tensors")
    yield row("L08", "group_size 64 over groups of 32", weights(group_size=64), 65, "group", base="compressed-tensors")
    for value in ("marlin-24", "float-quantized", "nvfp4-pack-quantized", "naive-quantized"):
        yield row("L08", f"format {value}", settings(format=value), 69, value, base="compressed-tensors")
    yield row("L08", "AWQ of 8 bits", settings(bits=8), 65, "bits|qweight", base="awq")
    yield row("L08", "AWQ of no known version", settings(version="gemx", format="gemx"), (0, 65, 69), "gemx", base="awq")
    yield row("L08", "AWQ with two versions", settings(version="gemv"), 65, "gemv", base="awq")
    yield row("L08", "gemv without its group size", lambda box: edit_config(box, lambda c: c["quantization_config"].pop("group_size")), 65, "scales|qzeros|group", base="awq-gemv")
    yield row("L08", "MLX in another mode", mlx_settings(mode="mxfp4"), 69, "mxfp4", base="mlx")
    yield row("L08", "MLX bits 8 over 4", mlx_settings(bits=8), 65, "bits|weight", base="mlx")
    yield row("L08", "MLX bits a text", mlx_settings(bits="4"), 65, "bits", base="mlx")

    # GGUF
    yield row("L09", "no bytes", gguf(lambda data: b""), 65, r"model\.gguf", base="gguf")
    yield row("L09", "cut in the key-values", gguf(lambda data: data[:1000]), 65, r"model\.gguf", base="gguf")
    yield row("L09", "cut in the table", gguf(lambda data: data[:data.index(b"blk.1.ffn_up.weight") + 4]), 65, r"model\.gguf", base="gguf")
    yield row("L09", "cut in the data", gguf(lambda data: data[:-33]), 65, r"model\.gguf", base="gguf")
    yield row("L09", "bytes behind the data", gguf(lambda data: data + b"\1" * 32), 65, r"model\.gguf", base="gguf")
    yield row("L09", "other first bytes", gguf(lambda data: b"GGML" + data[4:]), 65, r"model\.gguf", base="gguf")
    yield row("L09", "version 2, which differs in nothing", gguf(lambda data: data[:4] + struct.pack("<I", 2) + data[8:]), 0, base="gguf")
    for value, code in ((0, 65), (1, 69), (4, 69), (2 ** 31 + 1, 69)):
        yield row("L09", f"version {value}", gguf(lambda data, value=value: data[:4] + struct.pack("<I", value) + data[8:]), code, rf"model\.gguf.*{value}", base="gguf")
    yield row("L09", "the other byte order", gguf(lambda data: data[:4] + struct.pack(">I", 3) + data[8:]), 69, r"model\.gguf", base="gguf")
    for label, at in (("tensors", 8), ("keys", 16)):
        for value in (2 ** 63, 2 ** 32, 0):
            yield row("L09", f"{value} {label}", gguf(lambda data, at=at, value=value: data[:at] + struct.pack("<Q", value) + data[at + 8:]), 65, "gguf|tensor", base="gguf")
    up = b"blk.0.ffn_up.weight"   # then u32 dimensions, two u64, u32 type, u64 offset
    for label, offset, form, value, codes in (("no dimension", 0, "I", 0, (65, 69)), ("five dimensions", 0, "I", 5, (65, 69)), ("a dimension of 0", 4, "Q", 0, (65, 69)), ("a dimension of 33", 4, "Q", 33, 65), ("a dimension of 2^63", 4, "Q", 2 ** 63, 65),
                                       ("half the outputs", 12, "Q", 256, 65), ("type Q4_K", 20, "I", 12, 69), ("type F32", 20, "I", 0, 65), ("type 4", 20, "I", 4, 69), ("type Q4_0_4_4", 20, "I", 31, 69),
                                       ("type 200", 20, "I", 200, (65, 69)), ("offset off by one", 24, "Q", 1, 65), ("offset of another", 24, "Q", 0, 65), ("offset beyond the file", 24, "Q", 2 ** 40 * 32, 65)):
        yield row("L10", label, gguf(patched(up, offset, form, value)), codes, r"blk\.0\.ffn_up\.weight|model\.gguf", base="gguf")
    yield row("L10", "two tensors of one name", gguf(replaced(b"blk.0.ffn_up.weight", b"blk.1.ffn_up.weight")), 65, r"blk\.1\.ffn_up\.weight", base="gguf")
    yield row("L10", "a tensor of no known name", gguf(replaced(b"blk.0.ffn_up.weight", b"blk.0.ffn_xx.weight")), 69, r"blk\.0\.ffn_xx\.weight", base="gguf")
    yield row("L10", "a tensor of a layer too many", gguf(replaced(b"blk.1.ffn_up.weight", b"blk.7.ffn_up.weight")), (65, 69), r"blk\.7|layers\.1\.mlp\.up_proj", base="gguf")
    yield row("L10", "a tensor of another family", gguf(replaced(b"blk.0.ffn_norm.weight", b"blk.0.ssm_conv.weight")), (65, 69), "ssm_conv|post_attention", base="gguf")
    yield row("L10", "a name that is no text", gguf(replaced(b"blk.0.ffn_up.weight", b"blk.0.ffn_\xff\xfe.weight")), 65, r"model\.gguf", base="gguf")
    yield row("L10", "a scale of NaN", gguf(first_scale(b"blk.0.ffn_up.weight", 0x7E00)), 65, r"blk\.0\.ffn_up|up_proj", base="gguf")
    for key, form, value in ((b"qwen2.block_count", "I", 0), (b"qwen2.block_count", "I", 10 ** 9), (b"qwen2.attention.head_count", "I", 0), (b"qwen2.embedding_length", "I", 2 ** 31), (b"qwen2.feed_forward_length", "I", 7)):
        yield row("L11", f"{key.decode()} {value}", gguf(patched(key, 4, form, value)), 65, "", base="gguf")
    yield row("L11", "another architecture", gguf(replaced(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0llama")), 69, "llama", base="gguf")
    yield row("L11", "no architecture", gguf(replaced(b"general.architecture", b"general.architectxxx")), 65, "general.architecture", base="gguf")
    yield row("L11", "a key twice", gguf(replaced(b"general.file_type", b"general.name\0\0\0\0\0")), 65, "", base="gguf")
    yield row("L11", "alignment 7", gguf(lambda data: data.replace(b"general.file_type", b"general.alignment", 1)), 65, "alignment|offset|model", base="gguf")
    yield row("L11", "two models", two_models, 65, r"(?=.*model\.gguf)(?=.*other\.gguf)", base="gguf")
    yield row("L11", "one of a series", renamed("model-00002-of-00003.gguf"), 65, "00001-of-00003", base="gguf")

    # formats that are known, and not read
    for method, suffix, dtype, name in (("marlin_24", "B_24", "I32", "Marlin 2:4"), ("exl2", "q_weight", "I32", "EXL2"), ("exl3", "trellis", "I16", "EXL3"), ("hqq", "W_q", "I32", "HQQ"),
                                        ("bitsandbytes", "absmax", "F32", "bitsandbytes"), ("fp8", "weight_scale_inv", "F32", "FP8"), ("fbgemm_fp8", None, None, "FP8"), ("mxfp4", "weight_blocks", "I32", "MXFP4"),
                                        ("nvfp4", "weight_scale_2", "F32", "NVFP4"), ("modelopt", "input_scale", "F32", "ModelOpt"), ("bitblas", "qscales", "F16", "BitBLAS"), ("qqq", "s_channel", "F16", "QQQ"),
                                        ("spqr", "dense_weights", "I64", "SpQR"), ("aqlm", "codebooks", "F16", "AQLM"), ("vptq", "centroids", "F16", "VPTQ"), ("torchao", None, None, "torchao"), ("quanto", None, None, "quanto"),
                                        ("eetq", None, None, "EETQ"), ("higgs", None, None, "HIGGS"), ("bitnet", None, None, "BitNet")):
        yield row("L12", f"declared as {method}", foreign(method), 69, name, base="single")
        if suffix:
            yield row("L12", f"stored as {name}", foreign(method, suffix, dtype), 69, name, base="single")
            yield row("L12", f"stored as {name}, declared as gptq", foreign("gptq", suffix, dtype), 69, name, base="single")
