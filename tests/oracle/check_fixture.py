#!/usr/bin/python3
"""Checks one fixture against the oracle, before and after conversion.

    check_fixture.py FIXTURE_DIR                  part 1: the forward pass over the checkpoint agrees with expected.safetensors
    check_fixture.py FIXTURE_DIR BINARY TARGET    the same, then part 2: BINARY converts it, and the output, read only
                                                  through its own config, holds the same weights and gives the same logits,
                                                  or is refused for the reason that the rules give

Exits 0 when all agrees, 1 with one line saying what does not.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

import families
import gguf
from decode import Linear, OracleError, Tensor, bit_stream, decode_checkpoint, read_checkpoint, read_file
from forward import Model
from rules import DENSE, LAYOUTS, refusal

TOLERANCE = 2e-5  # float32 noise of this model size is below 1e-5, logits are about 10

# Zero fields in the v2 convention, whatever the label says; all other fixtures are v1.
V2_FIXTURES = ("gptqmodel-7.7-int4-g64-asym-v2", "resaved-transformers-5.23-int4-g128",
               "resaved-transformers-4.57-int4-g32-asym")

# How far the logits of rounded outputs may be from `expected`: about twice what was measured.
ROUNDED = {"dense-fp16": 2.5e-3, "dense-bf16": 7e-2, "mlx": 7e-3, "gguf": 9e-2}
ROPE_READER = {"transformers-4.x": "4", "optimum-1.19": "4", "transformers-5.x": "5"}
GPTQ_ACCORD = ("bits", "group_size", "sym", "desc_act", "checkpoint_format", "quant_method")


def require(condition, message):
    if not condition:
        raise OracleError(message)


def check_logits(model, expected, what, tolerance=TOLERANCE):
    logits, states = model.forward(expected["input_ids"].array())
    wanted = expected["logits"].array()
    worst = float(np.abs(logits - wanted).max())
    require(worst <= tolerance, f"{what}: logits differ by {worst:.3g}, allowed {tolerance}")
    if "hidden_states" in expected and tolerance == TOLERANCE:
        wanted = expected["hidden_states"].array()
        for layer, (got, want) in enumerate(zip(states, wanted, strict=True)):
            off = float(np.abs(got - want).max())
            limit = tolerance * max(1.0, float(np.abs(want).max()))
            require(off <= limit, f"{what}: hidden state {layer} differs by {off:.3g}, allowed {limit:.3g}")
    return worst


# ---- what a model consists of ----

def layer_linears(config, i):
    """{linear of layer i: (has a bias, inputs, outputs)}, for the quantised ones."""
    layer, hidden, heads = f"model.layers.{i}", config["hidden_size"], config["num_attention_heads"]
    if config["model_type"] == "qwen":
        half = config["intermediate_size"] // 2
        shapes = {"attn.c_attn": (True, hidden, 3 * hidden), "attn.c_proj": (False, hidden, hidden),
                  "mlp.w1": (False, hidden, half), "mlp.w2": (False, hidden, half), "mlp.c_proj": (False, half, hidden)}
        return {f"transformer.h.{i}.{name}": shape for name, shape in shapes.items()}
    dim = config.get("head_dim") or hidden // heads
    family = config["model_type"]
    third = family.startswith("qwen3")
    qkv = config.get("attention_bias", False) if third else config.get("qkv_bias", True) if family == "qwen2_moe" else True
    width = {"q": heads * dim, "k": config.get("num_key_value_heads", heads) * dim, "v": config.get("num_key_value_heads", heads) * dim}
    linears = {f"{layer}.self_attn.{p}_proj": (qkv, hidden, n) for p, n in width.items()}
    linears[f"{layer}.self_attn.o_proj"] = (third and qkv, heads * dim, hidden)
    blocks = {f"{layer}.mlp": config["intermediate_size"]}
    if family.endswith("_moe"):
        blocks = {f"{layer}.mlp.experts.{e}": config["moe_intermediate_size"] for e in range(config["num_experts"])}
    if family == "qwen2_moe":
        blocks[f"{layer}.mlp.shared_expert"] = config["shared_expert_intermediate_size"]
    for block, inner in blocks.items():
        linears.update({f"{block}.{p}_proj": (False, hidden, inner) for p in ("gate", "up")})
        linears[f"{block}.down_proj"] = (False, inner, hidden)
    return linears


def all_linears(config):
    return {name: shape for i in range(config["num_hidden_layers"]) for name, shape in layer_linears(config, i).items()}


def shapes_of(config):
    return {name: (inputs, outputs) for name, (_, inputs, outputs) in all_linears(config).items()}


def expected_names(config, target, suffixes=("qweight", "qzeros", "scales", "g_idx")):
    """Every tensor the output has to hold, and no other."""
    names = {"model.embed_tokens.weight", "model.norm.weight"}
    head, head_bias = families.head_of(config)
    if head != "lm_head" or not config.get("tie_word_embeddings", False):
        names.add(f"{head}.weight")
    if head_bias:
        names.add(f"{head}.bias")
    if config["model_type"] in families.MULTIMODAL and target != "gguf":
        names |= families.vision_names(config)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        names |= {f"{layer}.input_layernorm.weight", f"{layer}.post_attention_layernorm.weight"}
        if config["model_type"].startswith("qwen3"):
            names |= {f"{layer}.self_attn.q_norm.weight", f"{layer}.self_attn.k_norm.weight"}
        if config["model_type"].endswith("_moe"):
            names.add(f"{layer}.mlp.gate.weight")
        if config["model_type"] == "qwen2_moe":
            names.add(f"{layer}.mlp.shared_expert_gate.weight")
        for linear, (bias, _, _) in layer_linears(config, i).items():
            names |= {f"{linear}.{suffix}" for suffix in suffixes}
            if bias or target == "optimum-1.19":  # that generation builds a bias on every quantised linear
                names.add(f"{linear}.bias")
    return names


# ---- reading a folder by what its config says ----

class Claim:
    """What a config says of the linears."""

    def __init__(self, config, block):
        self.method, self.form, self.block = None, None, block
        self.per_module = lambda prefix: (None, None)
        if "quantization" in config:
            self.method, self.form, block = "mlx", "affine", config["quantization"]
            require(block == config["quantization_config"], "quantization and quantization_config differ")
            require(block["mode"] == "affine", "mode")
            self.per_module = lambda p: (block.get(p, block)["bits"], block.get(p, block)["group_size"])
        elif block is None:
            self.method, self.form = None, config.get("torch_dtype")
        elif block.get("quant_method") == "compressed-tensors":
            self.method, self.form = "compressed-tensors", block["format"]
            require(block["quantization_status"] == "compressed" and self.form == "pack-quantized", "not packed")
            self.per_module = self.of_groups
        else:
            form = "marlin" if block.get("is_marlin_format") else block.get("checkpoint_format", block.get("version", "gptq"))
            require(form == block.get("format", form), "two names of the format disagree")
            self.method = "marlin" if form == "marlin" else block.get("quant_method", "gptq")
            self.form = form
            self.per_module = lambda _: (block["bits"], block["group_size"])

    def of_groups(self, prefix):
        for group in self.block["config_groups"].values():
            if "Linear" in group["targets"] or prefix in group["targets"]:
                weights = group["weights"]
                require(weights["type"] == "int" and (weights["strategy"] == "channel") == (weights["group_size"] is None), f"{weights}")
                return weights["num_bits"], weights["group_size"] or -1
        raise OracleError(f"no config group for '{prefix}'")


def read_source(fixture):
    folder = fixture / "checkpoint"
    config = families.flat_config(json.loads((folder / "config.json").read_text()))
    block = config.get("quantization_config") or json.loads((folder / "quantize_config.json").read_text())
    claim = Claim(config, block)
    form = "gptq_v2" if fixture.name in V2_FIXTURES else claim.form
    tensors = {families.flat_name(name): tensor for name, tensor in read_checkpoint(folder).items()}
    return config, *decode_checkpoint(tensors, claim.method, form, claim.per_module, shapes_of(config))


def read_folder(folder):
    """(config, claim, linears, others, names of the stored tensors) of an output in safetensors"""
    config = json.loads((folder / "config.json").read_text())
    claim = Claim(config, config.get("quantization_config"))
    tensors = read_checkpoint(folder)
    linears, others = decode_checkpoint(tensors, claim.method, claim.form, claim.per_module, shapes_of(config))
    return config, claim, linears, others, tensors


def read_gguf_folder(folder):
    names = sorted(path.name for path in folder.iterdir())
    require(names == ["SHA256SUMS", "model.gguf", "qwen2-convert.manifest.json"], f"a GGUF output of {names}")
    values, stored = gguf.read_gguf(folder / "model.gguf")
    tensors = gguf.hf_tensors(stored)
    config = gguf.config_of(values, "lm_head.weight" not in tensors)
    linears, others = {}, {}
    inside = {f"{prefix}.weight": prefix for prefix in shapes_of(config)}
    for name, tensor in tensors.items():
        if name in inside and tensor.dtype in gguf.BLOCK_TYPES:
            linears[inside[name]] = gguf.linear(tensor)
        else:
            others[name] = tensor
    kinds = [tensors[f"{prefix}.weight"].dtype for prefix in linears]
    usual = max(set(kinds), key=lambda kind: sum(linears[p].codes.size for p, k in zip(linears, kinds) if k == kind))
    require(values["general.file_type"] == {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7}[usual], f"file_type {values['general.file_type']} for {usual}")
    require(values["general.quantization_version"] == 2, "quantization_version")
    return config, linears, others, tensors


# ---- comparing ----

def to_bfloat(values):
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def rounded(values, dtype):
    return {"F32": lambda v: v, "F16": lambda v: v.astype(np.float16).astype(np.float32), "BF16": to_bfloat}[dtype](values)


def same_bits(a, b):
    return a.shape == b.shape and np.array_equal(np.ascontiguousarray(a).view(np.uint32), np.ascontiguousarray(b).view(np.uint32))


def q8_0(values):
    """GGUF's reference quantiser: (float16 scale, codes), half away from zero."""
    groups = values.astype(np.float32).reshape(len(values), -1, 32)
    scale = np.abs(groups).max(axis=-1) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    scaled = groups * inverse[..., None]
    codes = np.sign(scaled) * np.floor(np.abs(scaled) + np.float32(0.5))
    return scale.astype(np.float16).astype(np.float32), codes.reshape(values.shape).astype(np.int64)


def wanted_weights(source, made, dtype):
    """float32 weights that the output has to hold; `dtype` is where offsets or whole weights are rounded to."""
    if isinstance(made, Linear) and made.offset is None:
        return source.weights()
    if isinstance(made, Linear):  # scale·code + offset: the offset is the rounded product
        offset = rounded(-source.scale * source.zero.astype(np.float32), dtype)
        return Linear(source.codes, source.scale, offset=offset, group=source.group).weights()
    return rounded(source.weights(), dtype)


def reorder(linears):
    """{linear: the same with the channels between gate/up and down in the order of down's groups, where these are scattered}"""
    ordered = dict(linears)
    for name, down in linears.items():
        if not name.endswith(".down_proj") or (np.diff(down.group) >= 0).all():
            continue
        order = np.argsort(down.group, kind="stable")
        ordered[name] = Linear(down.codes[order], down.scale, down.zero, group=down.group[order])
        for feeder in ("gate_proj", "up_proj"):
            prefix = name.removesuffix("down_proj") + feeder
            linear = linears[prefix]
            ordered[prefix] = Linear(linear.codes[:, order], linear.scale[:, order], linear.zero[:, order], group=linear.group)
    return ordered


class Padded:
    """The weights of a linear in the corner where the source has them; everything else has to be zero."""

    def __init__(self, name, made, inputs, outputs):
        self.all = made.weights() if isinstance(made, Linear) else made.float32().T
        require(not self.all[inputs:].any() and not self.all[:, outputs:].any(), f"'{name}': a weight that was added is not zero")
        self.corner = self.all[:inputs, :outputs]


def check_linear(name, source, made, dtype):
    wanted = wanted_weights(source, made, dtype)
    got = Padded(name, made, *wanted.shape).corner
    if isinstance(made, Linear) and made.offset is not None:
        wanted, got = wanted + 0, got + 0  # code and offset cancel to a zero of either sign
    require(same_bits(wanted, got), f"'{name}': {np.sum(wanted != got)} of {wanted.size} decoded weights are not what they have to be")


def wanted_dtype(target, name, source, dtype, rounding):
    """Of a tensor that is no quantised linear."""
    if target in DENSE:
        return DENSE[target]
    if target != "gguf":
        return source.dtype
    vector = sum(dim != 1 for dim in source.shape) < 2
    if vector or re.search(r"\.mlp\.(gate|shared_expert_gate)\.weight$", name):
        return "F32"
    return "Q8_0" if rounding else source.dtype


def check_other(name, source, made, dtype):
    require(made.dtype == dtype, f"tensor '{name}' is {made.dtype}, expected {dtype}")
    require(made.shape == source.shape, f"tensor '{name}' is {made.shape}, expected {source.shape}")
    if dtype == "Q8_0":
        scale, _, codes = gguf.blocks(made)
        want_scale, want_codes = q8_0(source.float32())
        require(same_bits(scale, want_scale) and np.array_equal(codes, want_codes), f"tensor '{name}' is not what the reference quantiser makes of it")
    elif dtype == source.dtype:
        require(made.raw == source.raw, f"tensor '{name}' is not bit-equal to the source's")
    else:
        require(same_bits(made.float32(), rounded(source.float32(), dtype)), f"tensor '{name}' is not the rounded source's")


def check_gptq_config(folder, config, claim, tensors):
    """sym and desc_act have to be true of the data: some loaders look at the flag and not at the tensors."""
    block = claim.block
    twin = json.loads((folder / "quantize_config.json").read_text())
    for key in GPTQ_ACCORD:
        require(twin.get(key) == block.get(key), f"quantize_config.json and config.json disagree on '{key}'")
    require(block["checkpoint_format"] in ("gptq", "gptq_v2"), f"checkpoint_format '{block['checkpoint_format']}'")
    bits, size = block["bits"], block["group_size"]
    for name, tensor in tensors.items():
        if name.endswith(".qzeros") and block["sym"]:
            middle = 2 ** (bits - 1) - (block["checkpoint_format"] == "gptq")
            require((bit_stream(tensor.array(), bits) == middle).all(), f"sym is true, but '{name}' is not symmetric")
        if name.endswith(".g_idx") and not block["desc_act"]:
            group = tensor.array()
            require((group == np.arange(len(group)) // (len(group) if size == -1 else size)).all(), f"desc_act is false, but '{name}' is scattered")


def check_form(target, layout, config, claim, linears, tensors):
    """The config names the layout that was asked for, and the tensors are its and no others."""
    method, forms, suffixes = LAYOUTS[layout or target]
    require((claim.method, claim.form) in [(method, form) for form in forms], f"written as {claim.method} {claim.form}, expected {method} {forms}")
    symmetric = all((linear.zero == linear.zero.flat[0]).all() for linear in linears.values() if linear.zero is not None)
    if method == "compressed-tensors":
        says = [group["weights"]["symmetric"] for group in claim.block["config_groups"].values()]
        require(len(says) > 1 or says == [symmetric], f"symmetric {says}, the zero points say {symmetric}")
        if not symmetric:
            suffixes += ("weight_zero_point",)
        left = {name.removesuffix(".weight") for name in expected_names(config, target, ()) if name.endswith(".weight") and ".experts." not in name}
        left = {name for name in left | {families.head_of(config)[0]} if not re.search(r"norm|embed|ln_q", name)}
        require(left <= set(claim.block["ignore"]), f"{sorted(left - set(claim.block['ignore']))[:4]} are not ignored")
    wanted = expected_names(config, target, suffixes)
    require(tensors.keys() == wanted, f"missing {sorted(wanted - tensors.keys())[:4]}, extra {sorted(tensors.keys() - wanted)[:4]}")
    if target in DENSE:
        wanted = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[DENSE[target]]
        require(config["dtype"] == config["torch_dtype"] == wanted, f"the config says {config['dtype']} of {wanted} tensors, to which loaders would round them")


def check_output(folder, target, linears, others, expected, rounding=False, layout=None, stores_offsets=False, options=()):
    """`linears` and `others` are the decoded source; `rounding` says that its values may be rounded in the output."""
    padded = next((int(o.removeprefix("--pad-intermediate=")) for o in options if o.startswith("--pad-intermediate=")), 0)
    split = next((int(o.removeprefix("--group-size=")) for o in options if o.startswith("--group-size=")), 0)
    if target == "gguf":
        config, made, made_others, tensors = read_gguf_folder(folder)
        wanted = expected_names(config, target, ("weight",))
        require(tensors.keys() == wanted, f"missing {sorted(wanted - tensors.keys())[:4]}, extra {sorted(tensors.keys() - wanted)[:4]}")
    else:
        config, claim, made, made_others, tensors = read_folder(folder)
        check_form(target, layout, config, claim, made, tensors)
        if claim.method == "gptq":
            check_gptq_config(folder, config, claim, tensors)
    shapes = shapes_of(config)
    require(linears.keys() <= shapes.keys(), "the output has lost linears")
    require(not padded or all(shapes[p][0] % padded == 0 and 0 <= shapes[p][0] - l.codes.shape[0] < padded for p, l in linears.items() if p.endswith("down_proj")), "not padded to the multiple")
    require(not split or all(len(l.scale) * split == len(l.codes) for l in made.values()), f"the groups are not of {split}")
    if any(isinstance(l, Linear) and (np.diff(l.group) < 0).any() for l in linears.values()) and LAYOUTS.get(layout or target, (None,))[0] != "gptq" and target not in DENSE:
        linears = reorder(linears)
    elif target == "vllm-gptq" or layout == "gptq-v1":
        linears = reorder(linears)
    scale_dtype = next((t.dtype for n, t in tensors.items() if n.endswith(".biases")), "F16")
    for prefix, source in linears.items():
        dense = made_others.get(f"{prefix}.weight")
        require((prefix in made) != (dense is not None), f"'{prefix}' is not there in one form")
        check_linear(prefix, source, made.get(prefix, dense), DENSE[target] if dense is not None else scale_dtype)
        require(not padded or made.get(prefix) is None or made[prefix].codes.shape == shapes[prefix], f"'{prefix}' has not the size that the config says")
    for name, tensor in made_others.items():
        if name.removesuffix(".weight") in linears:
            continue
        longer = padded and name.endswith(".bias") and name in others and tensor.shape != others[name].shape
        if name in others and not longer:
            check_other(name, others[name], tensor, wanted_dtype(target, name, others[name], scale_dtype, rounding))
        else:
            require(name.endswith(".bias") and not np.any(tensor.float32()), f"tensor '{name}' was invented")
    for name in others.keys() - made_others.keys():
        if target == "gguf" and name.startswith("visual."):  # --text-only
            continue
        tied = name == "lm_head.weight" and others[name].raw == others["model.embed_tokens.weight"].raw
        buffer = name.endswith("rotary_emb.inv_freq")
        require(tied or buffer or (name.endswith(".bias") and not np.any(others[name].float32())), f"tensor '{name}' was lost")
    if expected is None:
        return 0.0
    plain = {name: t if t.dtype not in gguf.BLOCK_TYPES else as_float(t) for name, t in made_others.items()}
    model = Model(config, {p: linear.weights() for p, linear in made.items()}, plain, ROPE_READER.get(target, "any"))
    kept = stores_offsets and any(linear.offset is not None for linear in made.values())
    return check_logits(model, expected, "output", ROUNDED[target] if rounding or kept else TOLERANCE)


def as_float(tensor):
    values = gguf.linear(tensor).weights().T
    return Tensor("F32", values.shape, np.ascontiguousarray(values).tobytes())


# ---- one fixture ----

class Fixture:
    """The decoded source."""

    def __init__(self, folder):
        self.name, self.checkpoint = folder.name, folder / "checkpoint"
        self.expected = read_file(folder / "expected.safetensors") if (folder / "expected.safetensors").exists() else None
        self.source = read_source(folder)
        self.config, self.linears, self.others = families.written(*self.source)
        block = self.config.get("quantization_config") or {}
        # It stores rounded offsets, which a layout of offsets takes as they are; `expected` is computed from whole zero points.
        self.stores_offsets = block.get("version") == "gemv_fast"
        self.grid = all(linear.zero is not None for linear in self.linears.values())  # whole zero points

    def check(self):
        if self.expected is None:
            return f"{self.name}: no logits to compare with"
        if "model.embed_tokens.scales" in self.others:
            return f"{self.name}: the embedding is quantised, which this oracle does not read"
        config, linears, others = self.source
        model = Model(config, {p: linear.weights() for p, linear in linears.items()}, others)
        return f"{self.name}: within {check_logits(model, self.expected, 'source'):.1e}"

    def convert(self, binary, target, *options):
        """(exit code, stderr, what the output holds or None)"""
        layout = next((o.removeprefix("--layout=") for o in options if o.startswith("--layout=")), None)
        with tempfile.TemporaryDirectory() as temp:
            out = pathlib.Path(temp) / "out"
            run = subprocess.run([binary, self.checkpoint, out, f"--target={target}", "--quiet", *options], capture_output=True, text=True)
            if run.returncode != 0:
                require(not out.exists(), f"exit {run.returncode}, but left an output folder")
                return run.returncode, run.stderr.strip(), None
            rounding = "--allow-rounding" in options
            return 0, "", check_output(out, target, self.linears, self.others, self.expected, rounding, layout, self.stores_offsets, options)

    def check_target(self, binary, target, *options):
        """Converts, or sees that it is refused as the rules say; where only rounding stands in the way, allows it."""
        why = refusal(target, self, options)
        if why == "rounding" and "--allow-rounding" not in options:
            code, text, _ = self.convert(binary, target, *options)
            require(code == 69 and text.endswith("[rounding]"), f"expected a refusal [rounding], exit {code}: {text}")
            return "refused [rounding], then " + self.check_target(binary, target, *options, "--allow-rounding")
        code, text, worst = self.convert(binary, target, *options)
        if why is None:
            require(code == 0, f"expected to convert, exit {code}: {text}")
            return "equal" if self.expected is None else f"equal, within {worst:.1e}"
        require(code == 69 and text.endswith(f"[{why}]"), f"expected a refusal [{why}], exit {code}: {text}")
        return f"refused [{why}]"


def main(arguments):
    if len(arguments) not in (1, 3):
        sys.exit(__doc__)
    fixture = pathlib.Path(arguments[0]).resolve()
    try:
        source = Fixture(fixture)
        print(source.check())
        if len(arguments) == 3:
            print(source.check_target(*arguments[1:]))
    except (OracleError, KeyError, ValueError, OSError) as error:
        sys.exit(f"{fixture.name}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
