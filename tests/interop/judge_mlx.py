"""MLX unpacks the source's codes and scales; mlx-lm loads the folder, and its logits are the expected ones."""
import mlx.core as mx
import numpy as np
from mlx_lm import load

from judging import config_of, divergence, expected, is_classifier, require, run, same_names, same_numbers, source_of, within

mx.set_default_device(mx.cpu)
KL_ALLOWED = {"F16": 5e-5, "F32": 5e-5, "BF16": 1e-3}  # it computes in the dtype of the scales
ULP_ALLOWED = 2  # of the larger of weight and bias, in the scales' dtype


def linears_of(out):
    stored = {}
    for file in sorted(out.glob("*.safetensors")):
        stored |= mx.load(str(file))
    return stored, {name.removesuffix(".scales") for name in stored if name.endswith(".scales")}


def check_linear(name, stored, grid, group_size):
    """Codes and scales exactly, weights up to the rounding of scale * code + bias."""
    weight, scale, bias = (stored[f"{name}.{part}"] for part in ("weight", "scales", "biases"))
    ones, zeros = mx.ones(scale.shape, mx.float32), mx.zeros(scale.shape, mx.float32)
    codes = np.array(mx.dequantize(weight, ones, zeros, group_size=group_size, bits=grid.bits))
    same_numbers(f"{name} (codes)", codes, grid.codes)
    spread = np.repeat(np.array(scale.astype(mx.float32)), group_size, axis=1)
    same_numbers(f"{name} (scales)", spread, grid.scale)
    got = np.array(mx.dequantize(weight, scale, bias, group_size=group_size, bits=grid.bits).astype(mx.float32))
    wanted = grid.weights()
    largest = np.maximum(np.abs(wanted), np.abs(grid.scale * grid.zero))
    ulp = np.spacing(largest.astype(np.float16)).astype(np.float32) * (8 if scale.dtype == mx.bfloat16 else 1)
    off = float((np.abs(got - wanted) / ulp).max())
    require(off <= ULP_ALLOWED, f"{name}: weights {off:.1f} ulp off, allowed {ULP_ALLOWED}")
    return off


def judge(out, fixture):
    source, others = source_of(fixture)
    stored, linears = linears_of(out)
    same_names(linears, source, "linears")
    kept = {name for name in stored if name.rsplit(".", 1)[0] not in linears or name.endswith(".bias")}
    same_names(kept, others, "other tensors")
    for name in sorted(kept):
        same_numbers(name, np.array(stored[name].astype(mx.float32)), others[name])
    group_size = config_of(out)["quantization"]["group_size"]
    off = max(check_linear(name, stored, source[name], group_size) for name in sorted(linears))
    equal = f"codes and scales equal, weights within {off:.1f} ulp"
    if is_classifier(out):
        return f"{equal} (it builds causal language models only: not loaded)"
    scales = next(iter(source.values())).scale_dtype
    ids, wanted = expected(fixture)
    model, _ = load(str(out))
    logits = np.array(model(mx.array([ids]))[0].astype(mx.float32))
    kl = within("KL", divergence(wanted, logits), KL_ALLOWED[scales])
    return f"{equal}, {kl}"


run(judge)
