"""Checkpoints that no bundled fixture has the shape of, packed from the description of GPTQ v1; random codes, no logits."""

import json
import pathlib
import shutil

import numpy as np

# 256 outputs everywhere, as Marlin wants; several groups, and one.
HIDDEN, INNER, VOCABULARY = 256, 512, 512
LINEARS = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN, HIDDEN), "self_attn.v_proj": (HIDDEN, HIDDEN),
           "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (HIDDEN, INNER), "mlp.up_proj": (HIDDEN, INNER), "mlp.down_proj": (INNER, HIDDEN)}


def pack(codes, bits):
    """[rows, codes] -> [rows, words], one little-endian bit stream a row."""
    ones = (codes[:, :, None] >> np.arange(bits) & 1).astype(np.uint8).reshape(len(codes), -1)
    return np.packbits(ones, axis=1, bitorder="little").view("<i4")


TOKENIZER = pathlib.Path(__file__).resolve().parents[2] / "fixtures/published-int4-g128-sharded/checkpoint"


def write(folder, bits, group_size, symmetric):
    generator = np.random.default_rng(7)
    tensors = {}

    def floats(name, *shape):
        tensors[name] = generator.normal(0, 0.1, shape).astype(np.float16)

    for name, (inputs, outputs) in LINEARS.items():
        prefix = f"model.layers.0.{name}"
        groups = 1 if group_size == -1 else inputs // group_size
        zeros = np.full((groups, outputs), 2 ** (bits - 1)) if symmetric else generator.integers(1, 2 ** bits, (groups, outputs))
        zero = np.repeat(zeros, inputs // groups, axis=0)
        reach = np.minimum(zero, 2 ** bits - 1 - zero)  # around the zero point, as weights are
        codes = generator.integers(zero - reach, zero + reach + 1)
        tensors[prefix + ".qweight"] = np.ascontiguousarray(pack(codes.T, bits).T)
        tensors[prefix + ".qzeros"] = pack(zeros - 1, bits)
        tensors[prefix + ".scales"] = generator.uniform(0.001, 0.02, (groups, outputs)).astype(np.float16)
        tensors[prefix + ".g_idx"] = (np.arange(inputs) // (inputs // groups)).astype(np.int32)
        if name[10] in "qkv" and name.startswith("self_attn."):
            floats(prefix + ".bias", outputs)
    floats("model.embed_tokens.weight", VOCABULARY, HIDDEN)
    for name in ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"):
        floats(name + ".weight", HIDDEN)
    settings = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": symmetric, "desc_act": False, "checkpoint_format": "gptq"}
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": HIDDEN, "intermediate_size": INNER,
              "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6,
              "rope_theta": 1e6, "max_position_embeddings": 512, "tie_word_embeddings": True, "torch_dtype": "float16", "quantization_config": settings}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, array in tensors.items():
        dtype = {"int32": "I32", "float16": "F16"}[str(array.dtype)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in tensors.values()))
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)


def write_all(root):
    """Folders like those of fixtures, without expected.safetensors."""
    folders = []
    for bits, group_size, symmetric in ((4, 128, True), (4, -1, True), (8, -1, False), (3, 32, False)):
        folder = root / f"made-int{bits}-g{group_size}-{'sym' if symmetric else 'asym'}"
        write(folder / "checkpoint", bits, group_size, symmetric)
        folders.append(folder)
    return folders
