#!/usr/bin/python3
"""Writes a valid int4 checkpoint of about 100 MB, for tests that need the tool to be busy for a while.

    make_big.py FOLDER
"""

import json
import pathlib
import random
import struct
import sys

from checkpoint import write_tensors

LAYERS, HIDDEN, INTERMEDIATE, VOCABULARY, GROUP = 8, 1024, 4096, 16384, 128
LINEARS = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN, 256), "self_attn.v_proj": (HIDDEN, 256),
           "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (HIDDEN, INTERMEDIATE),
           "mlp.up_proj": (HIDDEN, INTERMEDIATE), "mlp.down_proj": (INTERMEDIATE, HIDDEN)}
HALF_ONE, HALF_SMALL = struct.pack("<e", 1.0), struct.pack("<e", 0.01)
SMALL_HALVES = bytes(b & 0xBF for b in range(256))  # without that exponent bit every half is finite and below 2

QUANTISATION = {"bits": 4, "group_size": GROUP, "damp_percent": 0.01, "desc_act": False, "static_groups": False,
                "sym": True, "true_sequential": True, "quant_method": "gptq", "checkpoint_format": "gptq"}
CONFIG = {"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": HIDDEN,
          "initializer_range": 0.02, "intermediate_size": INTERMEDIATE, "max_position_embeddings": 2048,
          "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 8, "num_hidden_layers": LAYERS,
          "num_key_value_heads": 2, "quantization_config": QUANTISATION, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
          "sliding_window": 4096, "tie_word_embeddings": True, "torch_dtype": "float16", "use_cache": True,
          "use_sliding_window": False, "vocab_size": VOCABULARY}


def main(folder):
    generator = random.Random(1)
    tensors = {}
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        for linear, (k, n) in LINEARS.items():
            groups = k // GROUP
            tensors[f"{layer}.{linear}.qweight"] = ("I32", [k // 8, n], generator.randbytes(k * n // 2))
            tensors[f"{layer}.{linear}.qzeros"] = ("I32", [groups, n // 8], b"\x77" * (groups * n // 2))
            tensors[f"{layer}.{linear}.scales"] = ("F16", [groups, n], HALF_SMALL * (groups * n))
            tensors[f"{layer}.{linear}.g_idx"] = ("I32", [k], struct.pack(f"<{k}i", *(j // GROUP for j in range(k))))
            if linear.startswith("self_attn") and "o_proj" not in linear:
                tensors[f"{layer}.{linear}.bias"] = ("F16", [n], HALF_SMALL * n)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}.{norm}.weight"] = ("F16", [HIDDEN], HALF_ONE * HIDDEN)
    tensors["model.norm.weight"] = ("F16", [HIDDEN], HALF_ONE * HIDDEN)
    embedding = generator.randbytes(2 * VOCABULARY * HIDDEN).translate(SMALL_HALVES)
    tensors["model.embed_tokens.weight"] = ("F16", [VOCABULARY, HIDDEN], embedding)
    folder.mkdir(parents=True)
    write_tensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2))
    (folder / "quantize_config.json").write_text(json.dumps(QUANTISATION, indent=2))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
