"""What the families look like once they are written: names, configs, and linears that were stored as one.

First-generation Qwen keeps q, k and v in c_attn, whose outputs are those of the three one after another; it is
written as Qwen2. Qwen2-VL may nest its names and its text model's config; both are written flat, as they were first.
"""

import dataclasses

from decode import Tensor

MULTIMODAL = ("qwen2_vl", "qwen2_5_vl")
OF_QWEN1 = {"attn.c_proj": "self_attn.o_proj", "mlp.w1": "mlp.up_proj", "mlp.w2": "mlp.gate_proj", "mlp.c_proj": "mlp.down_proj",
            "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm"}
NESTED = {"model.language_model.": "model.", "model.visual.": "visual."}
KEYS = {"layer_norm_epsilon": "rms_norm_eps", "rotary_emb_base": "rope_theta", "seq_length": "max_position_embeddings"}


def flat_name(name):
    for nested, flat in NESTED.items():
        if name.startswith(nested):
            return flat + name[len(nested):]
    return name


def flat_config(config):
    counted = {"num_experts": config["num_local_experts"]} if "num_local_experts" in config else {}  # what transformers 5 calls it
    return counted | config | config.get("text_config", {}) | {"model_type": config["model_type"], "architectures": config.get("architectures", [])}


def qwen2_name(name):
    if name.startswith("transformer.h."):
        _, _, layer, rest = name.split(".", 3)
        module, part = rest.rsplit(".", 1)
        return f"model.layers.{layer}.{OF_QWEN1[module]}.{part}"
    return name.replace("transformer.wte", "model.embed_tokens").replace("transformer.ln_f", "model.norm")


def columns(linear, start, end):
    return dataclasses.replace(linear, codes=linear.codes[:, start:end], scale=linear.scale[:, start:end], zero=linear.zero[:, start:end])


def written(config, linears, others):
    """(config, linears, others) as the output has to hold them."""
    if config["model_type"] != "qwen":
        return config, linears, others
    hidden = config["hidden_size"]
    new_linears, new_others = {}, {}
    for name, linear in linears.items():
        if not name.endswith("c_attn"):
            new_linears[qwen2_name(name + ".").removesuffix(".")] = linear
            continue
        for i, part in enumerate("qkv"):
            new_linears[f"model.layers.{name.split('.')[2]}.self_attn.{part}_proj"] = columns(linear, i * hidden, (i + 1) * hidden)
    for name, tensor in others.items():
        if not name.endswith("c_attn.bias"):
            new_others[qwen2_name(name)] = tensor
            continue
        size = len(tensor.raw) // 3
        for i, part in enumerate("qkv"):
            new_others[f"model.layers.{name.split('.')[2]}.self_attn.{part}_proj.bias"] = Tensor(tensor.dtype, (hidden,), tensor.raw[i * size:(i + 1) * size])
    new = {KEYS.get(key, key): value for key, value in config.items()}
    new |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "intermediate_size": config["intermediate_size"] // 2, "num_key_value_heads": config["num_attention_heads"]}
    return new, new_linears, new_others


def vision_names(config):
    """Every tensor of the vision tower."""
    first = config["model_type"] == "qwen2_vl"
    norms = ("weight", "bias") if first else ("weight",)
    linears = ["attn.qkv", "attn.proj"] + (["mlp.fc1", "mlp.fc2"] if first else ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"])
    names = {"visual.patch_embed.proj.weight"} | {f"visual.merger.ln_q.{part}" for part in norms}
    for i in range(config["vision_config"]["depth"]):
        names |= {f"visual.blocks.{i}.{norm}.{part}" for norm in ("norm1", "norm2") for part in norms}
        names |= {f"visual.blocks.{i}.{linear}.{part}" for linear in linears for part in ("weight", "bias")}
    return names | {f"visual.merger.mlp.{n}.{part}" for n in (0, 2) for part in ("weight", "bias")}


def head_of(config):
    """(name, has a bias) of the last linear."""
    kind = (config.get("architectures") or ["ForCausalLM"])[0]  # a GGUF file comes without a config
    return ("score", kind.endswith("ForTokenClassification")) if "Classification" in kind else ("lm_head", False)
