"""Reads GGUF files: key-values, tensors, and the block types that the tool writes.

A reader of its own, strict where a loader may be lenient: offsets have to be the running padded sum, and nothing
may lie between or behind the tensors but zero bytes.
"""

import pathlib
import struct

import numpy as np

from decode import Linear, OracleError, Tensor

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34)}
BLOCK_TYPES = ("Q4_0", "Q4_1", "Q8_0")

NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate", "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj", "ffn_down_shexp": "mlp.shared_expert.down_proj"}
STACKS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
FAMILIES = {"qwen2": "qwen2", "qwen2moe": "qwen2_moe", "qwen2vl": "qwen2_vl", "qwen3": "qwen3", "qwen3moe": "qwen3_moe"}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        value, = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def string(self):
        size = self.take("Q")
        self.at += size
        return self.data[self.at - size:self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            kind, count = self.take("I"), self.take("Q")
            return [self.value(kind) for _ in range(count)]
        return self.take(SCALARS[kind])


def read_gguf(path):
    """({key: value}, {name: Tensor}); the shape of a Tensor is slowest first, as everywhere else."""
    data = pathlib.Path(path).read_bytes()
    reader = Reader(data)
    if data[:4] != b"GGUF" or reader.take("4s") != b"GGUF" or reader.take("I") != 3:
        raise OracleError(f"'{path}' is no GGUF file of version 3")
    count, pairs = reader.take("Q"), reader.take("Q")
    values = {}
    for _ in range(pairs):
        key = reader.string()
        if key in values:
            raise OracleError(f"key '{key}' twice")
        values[key] = reader.value(reader.take("I"))
    alignment = values.get("general.alignment", 32)
    entries = []
    for _ in range(count):
        name = reader.string()
        dims = [reader.take("Q") for _ in range(reader.take("I"))]
        entries.append((name, dims, reader.take("I"), reader.take("Q")))
    padded = lambda at: -(-at // alignment) * alignment  # noqa: E731
    start, expected, tensors = padded(reader.at), 0, {}
    if any(data[reader.at:start]):
        raise OracleError("the padding of the head is not zero")
    for name, dims, kind, offset in entries:
        dtype, block, size = TYPES[kind]
        if name in tensors or len(name.encode()) >= 64 or len(dims) > 4 or dims[0] % block or offset != expected:
            raise OracleError(f"tensor '{name}': dims {dims}, type {dtype}, offset {offset}, expected {expected}")
        nbytes = int(np.prod(dims)) // block * size
        raw = data[start + offset:start + offset + nbytes]
        expected = padded(offset + nbytes)
        if len(raw) != nbytes or any(data[start + offset + nbytes:start + expected]):
            raise OracleError(f"tensor '{name}' is cut off, or not followed by zeros")
        tensors[name] = Tensor(dtype, dims[::-1], raw)
    if len(data) != start + expected:
        raise OracleError(f"{len(data)} bytes instead of {start + expected}")
    return values, tensors


def blocks(tensor):
    """(scale, offset or None, codes) of [rows, blocks] and [rows, inputs]; a Q4_0 code is still 0..15."""
    rows, inputs = tensor.shape
    sizes = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}
    raw = np.frombuffer(tensor.raw, np.uint8).reshape(rows, inputs // 32, sizes[tensor.dtype])
    scale = np.ascontiguousarray(raw[..., :2]).view("<f2")[..., 0].astype(np.float32)
    if tensor.dtype == "Q8_0":
        return scale, None, raw[..., 2:].view(np.int8).reshape(rows, inputs).astype(np.int64)
    offset = np.ascontiguousarray(raw[..., 2:4]).view("<f2")[..., 0].astype(np.float32) if tensor.dtype == "Q4_1" else None
    packed = raw[..., sizes[tensor.dtype] - 16:]
    codes = np.concatenate([packed & 15, packed >> 4], axis=-1).reshape(rows, inputs).astype(np.int64)
    return scale, offset, codes


def linear(tensor):
    scale, offset, codes = blocks(tensor)
    if offset is not None:
        return Linear(codes.T, scale.T, offset=offset.T)
    middle = 8 if tensor.dtype == "Q4_0" else 0
    return Linear(codes.T, scale.T, np.full(scale.T.shape, middle))


def hf_tensors(tensors):
    """The same under the names of the checkpoint; stacks of experts taken apart."""
    out = {}
    for name, tensor in tensors.items():
        stem, kind = name.rsplit(".", 1)
        if stem in NAMES:
            out[f"{NAMES[stem]}.{kind}"] = tensor
            continue
        _, i, part = stem.split(".")
        layer = f"model.layers.{i}"
        if part in STACKS:
            experts, size = tensor.shape[0], len(tensor.raw) // tensor.shape[0]
            for e in range(experts):
                out[f"{layer}.mlp.experts.{e}.{STACKS[part]}.{kind}"] = Tensor(tensor.dtype, tensor.shape[1:], tensor.raw[e * size:(e + 1) * size])
        else:
            shape = (1, *tensor.shape) if part == "ffn_gate_inp_shexp" else tensor.shape  # [1, n] is stored as [n]
            out[f"{layer}.{BLOCK_NAMES[part]}.{kind}"] = Tensor(tensor.dtype, shape, tensor.raw)
    return out


def config_of(values, tied):
    family = values["general.architecture"]
    get = lambda key: values.get(f"{family}.{key}")  # noqa: E731
    config = {"model_type": FAMILIES[family], "num_hidden_layers": get("block_count"), "hidden_size": get("embedding_length"),
              "intermediate_size": get("feed_forward_length"), "num_attention_heads": get("attention.head_count"),
              "num_key_value_heads": get("attention.head_count_kv"), "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
              "rope_theta": get("rope.freq_base"), "vocab_size": len(values["tokenizer.ggml.tokens"]), "tie_word_embeddings": tied}
    if get("attention.key_length"):
        config["head_dim"] = get("attention.key_length")
    if family == "qwen2moe":  # its graph does not normalise the chosen weights
        config.update(num_experts=get("expert_count"), num_experts_per_tok=get("expert_used_count"), norm_topk_prob=False,
                      moe_intermediate_size=get("expert_feed_forward_length"),
                      shared_expert_intermediate_size=get("expert_shared_feed_forward_length"))
    if family == "qwen3moe":  # its graph does
        config.update(num_experts=get("expert_count"), num_experts_per_tok=get("expert_used_count"), norm_topk_prob=True,
                      moe_intermediate_size=get("expert_feed_forward_length"))
    if family == "qwen2vl":  # its graph wants to know how the axes share the dimensions of a head
        sections = get("rope.dimension_sections")
        if len(sections) != 4 or 2 * sum(sections) * config["num_attention_heads"] != config["hidden_size"]:
            raise OracleError(f"rope.dimension_sections {sections}")
    return config
