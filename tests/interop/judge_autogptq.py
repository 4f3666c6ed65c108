"""AutoGPTQ 0.7.1 loads a GPTQ folder. Marlin it runs on GPUs only: there its packing code must give the same bytes."""
import torch
from auto_gptq import AutoGPTQForCausalLM
from auto_gptq.nn_modules.qlinear import qlinear_marlin
from safetensors.torch import load_file

from judging import NotRun, config_of, is_classifier, run, same_names, same_numbers, source_of, within

ALLOWED = 5e-3  # transformers 4.40 keeps cos and sin in float16; seen: up to 2.3e-3


def packed_by_autogptq(grid):
    """(B, s) of its Marlin class, which asks for a GPU's generation before it packs."""
    torch.cuda.get_device_capability = lambda *_: (8, 0)
    outputs, inputs = grid.codes.shape
    width = inputs // grid.groups
    linear = torch.nn.Linear(inputs, outputs, bias=False)
    packer = qlinear_marlin.QuantLinear(4, width, inputs, outputs, bias=False)
    # It finds the codes by dividing by the scales; with scales of 1 that is exact, whatever the real ones are.
    linear.weight.data = torch.from_numpy(grid.codes - 8).half()
    packer.pack(linear, torch.ones(outputs, inputs // width).half())
    codes = packer.B.clone()
    linear.weight.data.zero_()
    packer.pack(linear, torch.from_numpy(grid.scale[:, ::width].copy()).half())
    return codes, packer.s.clone()


def judge_marlin(out, fixture):
    stored = {}
    for file in sorted(out.glob("*.safetensors")):
        stored |= load_file(file)
    source, _ = source_of(fixture)
    linears = {name.removesuffix(".B") for name in stored if name.endswith(".B")}
    same_names(linears, source, "linears")
    for name in sorted(linears):
        codes, scales = packed_by_autogptq(source[name])
        same_numbers(f"{name}.B", stored[f"{name}.B"].numpy(), codes.numpy())
        same_numbers(f"{name}.s", stored[f"{name}.s"].numpy(), scales.numpy())
    return f"{len(linears)} linears as its packing code writes them (no GPU: not run)"


def judge(out, fixture):
    quantization = config_of(out)["quantization_config"]
    if quantization.get("checkpoint_format") == "marlin" or quantization.get("is_marlin_format"):
        return judge_marlin(out, fixture)
    if quantization["quant_method"] != "gptq" or quantization.get("checkpoint_format", "gptq") != "gptq":
        raise NotRun("AutoGPTQ 0.7.1 does not know this format")
    if config_of(out)["model_type"] != "qwen2":
        raise NotRun(f"AutoGPTQ 0.7.1 has no {config_of(out)['model_type']}")
    if is_classifier(out):
        raise NotRun("AutoGPTQ builds causal language models only")
    model = AutoGPTQForCausalLM.from_quantized(str(out), device="cpu", use_safetensors=True, use_triton=False,
                                               disable_exllama=True, disable_exllamav2=True, use_marlin=False,
                                               inject_fused_attention=False, inject_fused_mlp=False)
    model = model.model
    torch.nn.Module.float(model)
    model.eval()
    reference = load_file(fixture / "expected.safetensors")
    with torch.no_grad():
        logits = model(reference["input_ids"].reshape(1, -1)).logits[0].float()
    return within("logits within", (logits - reference["logits"]).abs().max().item(), ALLOWED)


run(judge)
