#!/usr/bin/python3
"""Checks one fixture against the oracle, before and after conversion.

    check_fixture.py FIXTURE_DIR                  part 1: the forward pass over the checkpoint agrees with expected.safetensors
    check_fixture.py FIXTURE_DIR BINARY TARGET    the same, then part 2: BINARY converts it, and the output, read only
                                                  through its own config.json, holds the same weights and gives the same logits

Exits 0 when all agrees, 1 with one line saying what does not.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from decode import OracleError, bit_stream, decode_checkpoint, read_checkpoint, read_file
from forward import Model

TOLERANCE = 2e-5  # float32 noise of this model size is below 1e-5, logits are about 10

# Zero fields in the v2 convention, whatever the label says; all other fixtures are v1.
V2_FIXTURES = ("gptqmodel-7.7-int4-g64-asym-v2", "resaved-transformers-5.23-int4-g128",
               "resaved-transformers-4.57-int4-g32-asym")

# Fixtures that are not GPTQ in safetensors: nothing to decode, and every target refuses them.
OTHER_FORMATS = ("autogptq-0.5.1-int4-g128-bin", "gptqmodel-7.7-awq-g64")

# What the tool has to refuse with exit 69 instead of converting.
REFUSED = {
    "transformers-4.x": OTHER_FORMATS + ("autogptq-0.7.1-qwen1-int4-g64",
                                         "autogptq-0.7.1-int4-g32-asym-wrapped-zeros"),  # v1 cannot hold zero point 0
    "optimum-1.19": OTHER_FORMATS + ("autogptq-0.7.1-qwen1-int4-g64", "autogptq-0.7.1-int4-g32-asym-wrapped-zeros",
                                     "gptqmodel-7.7-qwen3-int4-g64"),  # its transformers have no Qwen3
    "transformers-5.x": OTHER_FORMATS + ("autogptq-0.7.1-qwen1-int4-g64",
                                         "autogptq-0.7.1-moe-int4-g64"),  # its loader fuses the experts
}
ROPE_READER = {"transformers-4.x": "4", "optimum-1.19": "4", "transformers-5.x": "5"}


def require(condition, message):
    if not condition:
        raise OracleError(message)


def check_logits(model, expected, what):
    logits, states = model.forward(expected["input_ids"].array())
    wanted = expected["logits"].array()
    worst = float(np.abs(logits - wanted).max())
    require(worst <= TOLERANCE, f"{what}: logits differ by {worst:.3g}, allowed {TOLERANCE}")
    if "hidden_states" in expected:
        wanted = expected["hidden_states"].array()
        for layer, (got, want) in enumerate(zip(states, wanted, strict=True)):
            off = float(np.abs(got - want).max())
            limit = TOLERANCE * max(1.0, float(np.abs(want).max()))
            require(off <= limit, f"{what}: hidden state {layer} differs by {off:.3g}, allowed {limit:.3g}")
    return worst


def layer_linears(config, i):
    """{linear of layer i: may have a bias}, for the quantised ones."""
    layer = f"model.layers.{i}"
    qkv = {"qwen2": True, "qwen2_moe": config.get("qkv_bias", True), "qwen3": config.get("attention_bias", False)}
    linears = {f"{layer}.self_attn.{p}_proj": qkv[config["model_type"]] for p in "qkv"}
    linears[f"{layer}.self_attn.o_proj"] = config["model_type"] == "qwen3" and config.get("attention_bias", False)
    blocks = [f"{layer}.mlp"]
    if config["model_type"] == "qwen2_moe":
        blocks = [f"{layer}.mlp.shared_expert"] + [f"{layer}.mlp.experts.{e}" for e in range(config["num_experts"])]
    linears.update({f"{block}.{p}_proj": False for block in blocks for p in ("gate", "up", "down")})
    return linears


def expected_names(config, target):
    """Every tensor the output has to hold, and no other."""
    names = {"model.embed_tokens.weight", "model.norm.weight"}
    if not config.get("tie_word_embeddings", False):
        names.add("lm_head.weight")
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        names |= {f"{layer}.input_layernorm.weight", f"{layer}.post_attention_layernorm.weight"}
        if config["model_type"] == "qwen3":
            names |= {f"{layer}.self_attn.q_norm.weight", f"{layer}.self_attn.k_norm.weight"}
        if config["model_type"] == "qwen2_moe":
            names |= {f"{layer}.mlp.gate.weight", f"{layer}.mlp.shared_expert_gate.weight"}
        for linear, bias in layer_linears(config, i).items():
            names |= {f"{linear}.{suffix}" for suffix in ("qweight", "qzeros", "scales", "g_idx")}
            if bias or target == "optimum-1.19":  # that generation builds a bias on every quantised linear
                names.add(f"{linear}.bias")
    return names


def zero_convention(quantisation):
    label = quantisation.get("checkpoint_format", "gptq")
    require(label == quantisation.get("format", label), "checkpoint_format and format disagree")
    require(label in ("gptq", "gptq_v2"), f"checkpoint_format '{label}' is unknown")
    return "v2" if label == "gptq_v2" else "v1"


def check_flags(tensors, quantisation, zeros):
    """sym and desc_act have to be true of the data: some loaders look at the flag and not at the tensors."""
    bits, group_size = quantisation["bits"], quantisation["group_size"]
    for name, tensor in tensors.items():
        if name.endswith(".qzeros") and quantisation["sym"]:
            middle = 2 ** (bits - 1) - (zeros == "v1")
            require((bit_stream(tensor.array(), bits) == middle).all(), f"sym is true, but '{name}' is not symmetric")
        if name.endswith(".g_idx") and not quantisation["desc_act"]:
            group = tensor.array()
            size = len(group) if group_size == -1 else group_size
            require((group == np.arange(len(group)) // size).all(), f"desc_act is false, but '{name}' is scattered")


def is_zero(tensor):
    return not np.any(tensor.float32())


def check_output(folder, target, linears, others, expected):
    """`linears` and `others` are the decoded source."""
    config = json.loads((folder / "config.json").read_text())
    quantisation = config["quantization_config"]
    twin = json.loads((folder / "quantize_config.json").read_text())
    for key in ("bits", "group_size", "sym", "desc_act", "checkpoint_format", "quant_method"):
        require(twin.get(key) == quantisation.get(key), f"quantize_config.json and config.json disagree on '{key}'")
    zeros = zero_convention(quantisation)

    tensors = read_checkpoint(folder)
    wanted = expected_names(config, target)
    require(tensors.keys() == wanted, f"missing {sorted(wanted - tensors.keys())[:4]}, extra {sorted(tensors.keys() - wanted)[:4]}")
    new_linears, new_others = decode_checkpoint(tensors, quantisation["bits"], quantisation["group_size"], zeros)
    check_flags(tensors, quantisation, zeros)

    require(new_linears.keys() == linears.keys(), "the output has other quantised linears than the source")
    for prefix, weights in linears.items():
        same = np.array_equal(weights.view(np.uint32), new_linears[prefix].view(np.uint32))
        require(same, f"'{prefix}': the decoded weights are not bit-equal")
    for name, tensor in new_others.items():
        if name in others:
            require(tensor.same_bytes(others[name]), f"tensor '{name}' is not bit-equal to the source's")
        else:
            require(name.endswith(".bias") and is_zero(tensor), f"tensor '{name}' was invented")
    for name in others.keys() - new_others.keys():
        tied = name == "lm_head.weight" and others[name].raw == others["model.embed_tokens.weight"].raw
        buffer = name.endswith("rotary_emb.inv_freq")
        require(tied or buffer or (name.endswith(".bias") and is_zero(others[name])), f"tensor '{name}' was lost")
    return check_logits(Model(config, new_linears, new_others, ROPE_READER[target]), expected, "output")


def read_source(fixture):
    folder = fixture / "checkpoint"
    config = json.loads((folder / "config.json").read_text())
    quantisation = config.get("quantization_config") or json.loads((folder / "quantize_config.json").read_text())
    zeros = "v2" if fixture.name in V2_FIXTURES else "v1"
    tensors = read_checkpoint(folder)
    return config, *decode_checkpoint(tensors, quantisation["bits"], quantisation["group_size"], zeros)


def check(fixture, binary=None, target=None):
    """Returns one line about what was found to agree."""
    line = fixture.name
    if fixture.name in OTHER_FORMATS:
        line += ": not GPTQ in safetensors, nothing to decode"
    else:
        config, linears, others = read_source(fixture)
        expected = read_file(fixture / "expected.safetensors")
        line += f": source within {check_logits(Model(config, linears, others), expected, 'source'):.1e}"
    if binary is None:
        return line
    with tempfile.TemporaryDirectory() as temp:
        out = pathlib.Path(temp) / "out"
        run = subprocess.run([binary, fixture / "checkpoint", out, f"--target={target}", "--quiet"],
                             capture_output=True, text=True)
        if fixture.name in REFUSED[target]:
            require(run.returncode == 69, f"expected a refusal (69), exit {run.returncode}: {run.stderr.strip()}")
            require(not out.exists(), "refused, but left an output folder")
            return line + ", refused as it has to be"
        require(run.returncode == 0, f"exit {run.returncode}: {run.stderr.strip()}")
        return line + f", output bit-equal and within {check_output(out, target, linears, others, expected):.1e}"


def main(arguments):
    if len(arguments) not in (1, 3) or (len(arguments) == 3 and arguments[2] not in ROPE_READER):
        sys.exit(__doc__)
    fixture = pathlib.Path(arguments[0]).resolve()
    try:
        print(check(fixture, *arguments[1:]))
    except (OracleError, KeyError, ValueError, OSError) as error:
        sys.exit(f"{fixture.name}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
