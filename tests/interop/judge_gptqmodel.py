"""GPTQModel loads the folder with its plain kernel and computes the expected logits."""
import os

os.cpu_count = lambda: 4  # its thread pools want more than two workers
from judging import NotRun, config_of, holds_float32, is_classifier, run, within  # noqa: E402
from model_class import token_logits  # noqa: E402
import torch  # noqa: E402
from gptqmodel import BACKEND, GPTQModel  # noqa: E402
from gptqmodel.models.definitions.base_qwen2_vl import BaseQwen2VLGPTQ  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

BaseQwen2VLGPTQ.require_load_processor = False  # an image processor would need torchvision; texts do without
ALLOWED = {"gptq": 5e-5, "awq": 1e-2}  # its AWQ kernel multiplies in float16


def judge(out, fixture):
    quantization = config_of(out)["quantization_config"]
    if quantization.get("checkpoint_format") == "marlin" or quantization.get("is_marlin_format"):
        raise NotRun("GPTQModel has its Marlin kernel for GPUs only")
    if is_classifier(out):
        raise NotRun("GPTQModel builds causal language models only")
    method = quantization["quant_method"]
    backend = BACKEND.AWQ_TORCH if method == "awq" else BACKEND.GPTQ_TORCH
    model = GPTQModel.load(str(out), device="cpu", backend=backend, dtype=torch.float16).model
    reference = load_file(fixture / "expected.safetensors")
    allowed = 5e-3 if holds_float32(out) else ALLOWED[method]
    return within("logits within", (token_logits(model, reference["input_ids"]) - reference["logits"]).abs().max().item(), allowed)


run(judge)
