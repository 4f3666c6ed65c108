"""gguf-py reads model.gguf and dequantises every tensor; each must be the source's number for number."""
import gguf
import numpy as np

from judging import require, run, same_names, same_numbers, source_of

FRONT = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
LAYER = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "ffn_gate_inp": "mlp.gate", "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
         "ffn_gate_shexp": "mlp.shared_expert.gate_proj", "ffn_up_shexp": "mlp.shared_expert.up_proj",
         "ffn_down_shexp": "mlp.shared_expert.down_proj"}
EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}


def named(tensor_name, numbers):
    """{name in the checkpoint: array}; the experts of a layer are one tensor in GGUF."""
    *front, kind, suffix = tensor_name.split(".")
    if not front:
        return {f"{FRONT[kind]}.{suffix}": numbers}
    layer = f"model.layers.{front[1]}"
    if kind in EXPERTS:
        return {f"{layer}.mlp.experts.{i}.{EXPERTS[kind]}.{suffix}": part for i, part in enumerate(numbers)}
    return {f"{layer}.{LAYER[kind]}.{suffix}": numbers}


def judge(out, fixture):
    source, others = source_of(fixture)
    wanted = others | {f"{name}.weight": grid.weights(whole_zeros=True) for name, grid in source.items()}
    reader = gguf.GGUFReader(out / "model.gguf")
    got, kinds = {}, set()
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        require(numbers.size == tensor.n_elements, f"{tensor.name}: {numbers.size} numbers")
        parts = named(tensor.name, numbers)
        got |= parts
        for name in parts:
            grid = source.get(name.removesuffix(".weight"))
            if grid is not None and tensor.tensor_type.name == "Q4_1" and grid.carried is not None:
                wanted[name] = grid.with_carried()
            if grid is not None and tensor.tensor_type.name == "F16":  # embedding and head, which GGUF keeps as floats
                wanted[name] = grid.weights().astype(np.float16).astype(np.float32)
        if any(name.removesuffix(".weight") in source for name in parts):
            kinds.add(tensor.tensor_type.name)
    same_names(got, wanted, "tensors")
    for name in sorted(wanted):
        same_numbers(name, got[name], wanted[name].reshape(got[name].shape) if wanted[name].size == got[name].size
                     else wanted[name])
    return f"{len(source)} linears bit for bit as {', '.join(sorted(kinds))}"


run(judge)
