"""Which checkpoint each target has to refuse, and why: the conversion matrix as rules over what the tensors hold."""

import numpy as np

from decode import read_checkpoint
from families import MULTIMODAL, head_of

GPTQ = ("qweight", "qzeros", "scales", "g_idx")
AWQ = ("qweight", "qzeros", "scales")
PACKED = ("compressed-tensors", ("pack-quantized",), ("weight_packed", "weight_scale", "weight_shape"))
DENSE = {"dense-fp16": "F16", "dense-bf16": "BF16", "dense-fp32": "F32"}

# Target or --layout: (method, words for it in the config, parts of a linear).
LAYOUTS = {
    "transformers-4.x": ("gptq", ("gptq",), GPTQ), "optimum-1.19": ("gptq", ("gptq",), GPTQ),
    "transformers-5.x": ("gptq", ("gptq", "gptq_v2"), GPTQ), "gptqmodel": ("gptq", ("gptq", "gptq_v2"), GPTQ),
    "gptqmodel-v2": ("gptq", ("gptq_v2",), GPTQ), "vllm-gptq": ("gptq", ("gptq",), GPTQ), "gptq-v1": ("gptq", ("gptq",), GPTQ),
    "awq": ("awq", ("gemm",), AWQ), "awq-gemv": ("awq", ("gemv",), AWQ), "awq-gemv-fast": ("awq", ("gemv_fast",), AWQ),
    "compressed-tensors": PACKED, "compressed-tensors-2025": PACKED, "vllm": PACKED,
    "marlin": ("marlin", ("marlin",), ("B", "s")), "mlx": ("mlx", ("affine",), ("weight", "scales", "biases")),
    "dense-fp16": (None, ("float16",), ("weight",)), "dense-bf16": (None, ("bfloat16",), ("weight",)), "dense-fp32": (None, ("float32",), ("weight",)),
}


class Facts:
    """What the tensors of a checkpoint hold, over all its linears."""

    def __init__(self, fixture):
        linears = list(fixture.linears.values())
        block = fixture.config.get("quantization_config") or {}
        self.linears = linears
        self.bits = block.get("bits") or bits_of(linears)
        scattered = {name for name, l in fixture.linears.items() if (l.group != np.arange(len(l.group)) // -(-len(l.group) // len(l.scale))).any()}
        # Where only down_proj is, the channels that gate and up give it can be put in order: no layout is too small for that.
        self.scattered = any(not name.endswith(".down_proj") for name in scattered)
        self.symmetric = all((l.zero == 2 ** (self.bits - 1)).all() for l in linears)
        self.zero_of_0 = any((l.zero == 0).any() for l in linears)
        self.shapes = [(l.codes.shape, len(l.scale)) for l in linears]

    def groups_of(self, *sizes):
        """Can every group be cut into pieces of one of these sizes (0: or be the only one)?"""
        def fits(inputs, groups):
            size = inputs // groups
            return (0 in sizes and groups == 1) or any(s and size % s == 0 for s in sizes)
        return all(inputs % groups == 0 and fits(inputs, groups) for (inputs, _), groups in self.shapes)


def bits_of(linears):
    return next(b for b in (2, 3, 4, 8) if max(int(l.codes.max()) for l in linears) < 2 ** b)


def holds(values, dtype):
    """Can the type hold each of these float32 numbers?"""
    with np.errstate(over="ignore"):
        if dtype == "BF16":
            return not (np.ascontiguousarray(values).view(np.uint32) & 0xFFFF).any()
        return dtype == "F32" or bool((values.astype(np.float16).astype(np.float32) == values).all())


def refusal(target, fixture, options=()):
    """The finding with which the target has to refuse, or None."""
    family = fixture.config["model_type"]
    unknown = {"optimum-1.19": ("qwen3", "qwen3_moe", *MULTIMODAL), "transformers-5.x": ("qwen2_moe", "qwen3_moe"),
               "gptqmodel": MULTIMODAL, "gptqmodel-v2": MULTIMODAL, "mlx": ("qwen3_moe",)}
    if family in unknown.get(target, ()):
        return "target-architecture"
    if "--text-only" in options and target != "gguf":
        return "text-only"
    if target == "gguf" and family in MULTIMODAL and "--text-only" not in options:
        return "vision-gguf"
    facts = fixture.facts = getattr(fixture, "facts", None) or Facts(fixture)
    layout = next((o.removeprefix("--layout=") for o in options if o.startswith("--layout=")), target)
    cannot = "layout-cannot-hold"
    of_vllm = facts.bits in (4, 8) and not facts.scattered and facts.groups_of(0, 32, 64, 128)
    if target.startswith("vllm") and not of_vllm:
        return cannot
    if target == "vllm-gptq" or layout == "gptq-v1":
        return None if facts.symmetric else cannot
    if target in ("transformers-4.x", "optimum-1.19"):
        return cannot if facts.zero_of_0 else None
    if layout.startswith("compressed-tensors"):
        return cannot if facts.scattered or (layout.endswith("2025") and facts.bits != 3) else None
    if layout.startswith("awq"):
        widths = {"awq": 32, "awq-gemv": 8, "awq-gemv-fast": 4}[layout]
        fits = facts.bits == 4 and not facts.scattered and all(n % widths == 0 for (_, n), _ in facts.shapes)
        if layout != "awq":  # GEMV knows no other groups; the offsets of gemv_fast lie in float16
            fits = fits and facts.groups_of(32, 64, 128)
        return None if fits else cannot
    if layout == "marlin":
        shapes = all(k % 128 == 0 and n % 256 == 0 for (k, n), _ in facts.shapes)
        fits = facts.bits == 4 and facts.symmetric and not facts.scattered and shapes and facts.groups_of(0, 128)
        return None if fits else cannot
    if layout == "mlx":
        if facts.scattered or not facts.groups_of(32, 64, 128):
            return cannot
        dtype = scale_dtype(fixture)
        return None if "--allow-rounding" in options or fixture.stores_offsets or all(holds(-l.scale * l.zero.astype(np.float32), dtype) for l in facts.linears) else "rounding"
    if layout == "gguf":
        if facts.scattered or not facts.groups_of(32) or (facts.bits == 8 and not facts.symmetric):  # code - zero spans 511 values
            return cannot
        if head_of(fixture.config)[0] != "lm_head":
            return "gguf-name"
        return None if "--allow-rounding" in options or all(holds(l.scale, "F16") for l in facts.linears) else "rounding"
    if layout in DENSE and "--allow-rounding" not in options:
        dtype = DENSE[layout]
        return None if dtype == "F32" else "rounding"  # whether or not these very weights would fit
    return None


def scale_dtype(fixture):
    return next(t.dtype for name, t in read_checkpoint(fixture.checkpoint).items() if name.endswith((".scales", ".weight_scale", ".s")))
