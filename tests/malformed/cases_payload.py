"""Q01-Q12: tensors that are well stored but do not make a quantised model together."""

import json
import struct

from case import Case
from checkpoint import edit_config, edit_tensors, read_tensors

UP = "model.layers.0.mlp.up_proj"        # 128 inputs, 512 outputs, one group
DOWN = "model.layers.0.mlp.down_proj"    # 512 inputs, 128 outputs, 4 groups
BIAS = "model.layers.0.self_attn.o_proj.bias"


def tensor(name, dimensions=None, dtype=None, raw=None):
    """Gives a stored tensor another shape, dtype or content; the data follow the shape (cut, or filled up with its own bytes)."""
    def edit(tensors):
        old_dtype, old_dimensions, old_raw = tensors[name]
        new_dtype, new_dimensions = dtype or old_dtype, dimensions or old_dimensions
        size = {"F16": 2, "I32": 4, "F32": 4, "I64": 8}[new_dtype]
        for dimension in new_dimensions:
            size *= dimension
        data = raw(old_raw) if raw else old_raw
        tensors[name] = (new_dtype, new_dimensions, (data * (size // len(data) + 1))[:size])
    return lambda box: edit_tensors(box.shard(), edit)


def without(*parts):
    """Removes every tensor whose name holds one of the parts."""
    return lambda box: edit_tensors(box.shard(), lambda tensors: [tensors.pop(name) for name in list(tensors) if any(p in name for p in parts)])


def half(at, bits):
    """One half-precision number replaced by these 16 bits."""
    return lambda raw: raw[:2 * at] + struct.pack("<H", bits) + raw[2 * at + 2:]


def groups(make):
    return lambda raw: struct.pack(f"<{len(raw) // 4}i", *make([j // 128 for j in range(len(raw) // 4)]))


def one_moved(values):
    return [1] + values[1:]


def dealt_out(values):
    return [j % 4 for j in range(len(values))]


def desc_act_set(box):
    config = json.loads((box.out / "config.json").read_text())["quantization_config"]
    return None if config["desc_act"] is True else "scattered groups were written with desc_act false, which some loaders trust"


def untied(box):
    config = json.loads((box.out / "config.json").read_text())
    stored = {}
    for folder in (box.input, box.out):
        for path in folder.glob("*.safetensors"):
            stored.setdefault(folder, {}).update(read_tensors(path))
    kept = all(stored[box.input][name] == stored[box.out].get(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
    return None if kept and config["tie_word_embeddings"] is False else "the head and the embedding differ, and one of them is lost"


def layers(count):
    return lambda box: edit_config(box, lambda config: config.update(num_hidden_layers=count))


def rows():
    def row(id, name, damage, expect, says="", **options):
        return Case(id, name, damage, expect, says, **{"base": "single", **options})

    yield row("Q01", "qweight missing", without(UP + ".qweight"), 65, UP)
    for suffix in ("qzeros", "scales"):
        yield row("Q01", f"{suffix} missing", without(f"{UP}.{suffix}"), 65, UP)
    yield row("Q02", "qweight one row short", tensor(UP + ".qweight", [15, 512]), 65, UP + ".qweight")
    yield row("Q02", "qweight one column short", tensor(UP + ".qweight", [16, 511]), 65, UP + ".qweight")
    yield row("Q02", "qweight turned", tensor(UP + ".qweight", [512, 16]), 65, UP)  # as AWQ GEMV has it; then the other parts do not fit
    yield row("Q02", "qweight flat", tensor(UP + ".qweight", [8192]), 65, UP + ".*qweight")
    yield row("Q02", "qweight in I64", tensor(UP + ".qweight", dtype="I64"), 65, UP + ".qweight")
    yield row("Q02", "qweight in F32", tensor(UP + ".qweight", dtype="F32"), 65, UP + ".qweight")
    yield row("Q02", "qweight empty", tensor(UP + ".qweight", [0, 512]), 65, UP + ".qweight")
    yield row("Q03", "qzeros one group more", tensor(UP + ".qzeros", [2, 64]), 65, UP + ".qzeros")
    yield row("Q03", "qzeros one group less", tensor(DOWN + ".qzeros", [3, 16]), 65, DOWN + ".qzeros")
    yield row("Q03", "qzeros half as wide", tensor(UP + ".qzeros", [1, 32]), 65, UP + ".qzeros")
    yield row("Q03", "qzeros in F16", tensor(UP + ".qzeros", dtype="F16"), 65, UP + ".qzeros")
    yield row("Q03", "scales one group more", tensor(UP + ".scales", [2, 512]), 65, UP + ".scales")
    yield row("Q03", "scales one group less", tensor(DOWN + ".scales", [3, 128]), 65, DOWN + ".scales")
    yield row("Q03", "scales one column short", tensor(UP + ".scales", [1, 511]), 65, UP + ".scales")
    yield row("Q03", "scales in I32", tensor(UP + ".scales", dtype="I32"), 65, UP + ".scales")
    yield row("Q04", "a scale is NaN", tensor(UP + ".scales", raw=half(5, 0x7E00)), 65, UP + ".scales")
    yield row("Q04", "a scale is infinite", tensor(UP + ".scales", raw=half(5, 0x7C00)), 65, UP + ".scales")
    yield row("Q06", "bias not zero where none may be", tensor(BIAS, raw=half(3, 0x3800)), 69, rf"(?=.*{BIAS})(?=.*\b0\.5)(?=.*\b1\b)")
    yield row("Q06", "bias of NaN where none may be", tensor(BIAS, raw=half(3, 0x7E00)), (65, 69), BIAS)
    yield row("Q06", "bias of minus zeros", tensor(BIAS, raw=lambda raw: b"\0\x80" * (len(raw) // 2)), 0, same=True)
    yield row("Q06", "zero bias of a wrong shape", tensor(BIAS, [64]), 65, BIAS)
    yield row("Q06", "real bias of a wrong shape", tensor("model.layers.0.self_attn.q_proj.bias", [64]), 65, r"q_proj\.bias")
    yield row("Q06", "real bias missing", without("layers.1.self_attn.k_proj.bias"), 65, r"layers\.1\.self_attn\.k_proj")
    yield row("Q08", "one group for all inputs", tensor(DOWN + ".g_idx", raw=groups(lambda values: [0] * len(values))), 65, DOWN + ".g_idx")
    yield row("Q08", "one input in a wrong group", tensor(DOWN + ".g_idx", raw=groups(one_moved)), 65, DOWN + ".g_idx")
    yield row("Q08", "scattered groups, flag off", tensor(DOWN + ".g_idx", raw=groups(dealt_out)), (0, 65), DOWN + ".g_idx|desc_act", check=desc_act_set)
    yield row("Q08", "g_idx of a wrong length", tensor(DOWN + ".g_idx", [511]), 65, DOWN + ".g_idx")
    yield row("Q08", "g_idx in F32", tensor(DOWN + ".g_idx", dtype="F32"), 65, DOWN + ".g_idx")
    # to keep the head and to untie it is right too: what may not happen is that either is lost
    yield row("Q11", "tied, but stored and different", tensor("lm_head.weight", raw=half(7, 0x3C00)), (0, 65), "lm_head.weight", base="tied", check=untied)
    yield row("Q12", "an expert missing in one layer", without("layers.1.mlp.experts.2."), 65, r"layers\.1\.mlp\.experts\.2", base="moe")
    yield row("Q12", "a router missing", without("layers.1.mlp.gate."), 65, r"layers\.1\.mlp\.gate", base="moe")
    yield row("Q12", "a layer missing", without("layers.1."), 65, r"layers\.1")
    yield row("Q12", "a layer less than config.json says", layers(3), 65, r"layers\.2|num_hidden_layers")
    yield row("Q12", "a layer more than config.json says", layers(1), (65, 69), r"layers\.1|num_hidden_layers")
    yield row("Q12", "the head missing", without("lm_head."), 65, "lm_head")
    yield row("Q12", "the embedding missing", without("embed_tokens"), 65, "embed_tokens")
