"""transformers 5 opens the folder without a complaint and computes the expected logits."""
import os

os.cpu_count = lambda: 4  # GPTQModel's thread pools want more than two workers
from judging import NotRun, config_of, holds_float32, require, run, within  # noqa: E402
from model_class import loader_class, token_logits  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

KINDS = ("missing", "unexpected", "mismatched")
# Largest difference of a logit, of 10 or so. Dense files and compressed-tensors (which dequantises into the dtype of
# its scales) carry one rounding of every weight; seen: up to 1.1e-3 for float16, 2.5e-3 where the embedding was Q8_0
# or Q4_0 and is rounded as well, 2.5e-2 for bfloat16.
ALLOWED = {"awq": 1e-2, "gptq": 5e-5, "float32": 2e-5, "float16": 4e-3, "bfloat16": 5e-2}


def dtypes_of(out):
    return {str(tensor.dtype).removeprefix("torch.") for file in out.glob("*.safetensors")
            for tensor in load_file(file).values()}


def judge(out, fixture):
    config = config_of(out)
    quantization = config.get("quantization_config") or {}
    method, kind = quantization.get("quant_method"), config.get("dtype") or config.get("torch_dtype")
    arguments = {"dtype": torch.float16 if quantization else "auto"}  # "auto", its default, is what config.json says
    if not quantization:
        stored = dtypes_of(out)
        require(stored == {kind}, f"config.json says {kind}, the weights are {', '.join(sorted(stored))}")
    if config["model_type"].endswith("_moe") and method == "gptq":
        raise NotRun("transformers 5 leaves the experts of a quantised MoE uninitialised")
    if method == "compressed-tensors":
        arguments = {"dtype": torch.float32}
        if not all(group["weights"].get("symmetric", True) for group in quantization["config_groups"].values()):
            # By default it makes room for unpacked zero points and refuses every correct file.
            from transformers import CompressedTensorsConfig
            arguments["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    model, info = loader_class(out).from_pretrained(out, output_loading_info=True, **arguments)
    for what in KINDS:
        names = sorted(map(str, info[f"{what}_keys"]))
        require(not names, f"{len(names)} {what}: {', '.join(names[:2])}")
    reference = load_file(fixture / "expected.safetensors")
    difference = (token_logits(model, reference["input_ids"]) - reference["logits"]).abs().max().item()
    allowed = 5e-3 if method == "gptq" and holds_float32(out) else ALLOWED.get(method, ALLOWED[kind])
    return "clean, " + within("logits within", difference, allowed)


run(judge)
