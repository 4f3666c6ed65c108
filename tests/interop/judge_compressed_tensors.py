"""compressed-tensors unpacks and dequantises every linear; each must be the source's, bit for bit."""
import numpy as np
import torch
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file

from judging import config_of, require, run, same_names, same_numbers, source_of

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def judge(out, fixture):
    source, others = source_of(fixture)
    stored = {}
    for file in sorted(out.glob("*.safetensors")):
        stored |= load_file(file)
    config = QuantizationConfig.model_validate(config_of(out)["quantization_config"])
    require(config.format == "pack-quantized" and len(config.config_groups) == 1, f"format {config.format}")
    scheme = next(iter(config.config_groups.values()))
    linears = {name.removesuffix(".weight_packed") for name in stored if name.endswith(".weight_packed")}
    # Embedding and head, which MLX quantises, become float.
    floated = {name: grid for name, grid in source.items() if not name.startswith("model.layers.")}
    source = {name: grid for name, grid in source.items() if name not in floated}
    same_names(linears, source, "linears")
    for name, grid in floated.items():
        weight = stored[f"{name}.weight"]
        others[f"{name}.weight"] = torch.from_numpy(grid.weights()).to(weight.dtype).float().numpy()
    kept = {name for name in stored if name.rsplit(".", 1)[0] not in linears or name.endswith(".bias")}
    same_names(kept, others, "other tensors")
    for name in sorted(linears):
        parts = {key: stored[f"{name}.{key}"] for key in ("weight_packed", "weight_scale", "weight_zero_point")
                 if f"{name}.{key}" in stored}
        require(parts["weight_scale"].dtype == DTYPES[source[name].scale_dtype],
                f"{name}: scales are {parts['weight_scale'].dtype}, the source's {source[name].scale_dtype}")
        parts["weight_shape"] = torch.Size(stored[f"{name}.weight_shape"].tolist())
        weight = PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
        # scale * (code - zero) is exact in float32; in the scale's own dtype it is rounded once, by either.
        wanted = torch.from_numpy(source[name].weights(whole_zeros=True)).to(weight.dtype)
        same_numbers(name, weight.float().numpy(), wanted.float().numpy())
    for name in sorted(kept):
        same_numbers(name, stored[name].float().numpy(), np.asarray(others[name]))
    return f"{len(linears)} linears bit for bit"


run(judge)
