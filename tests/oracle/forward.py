"""A float32 forward pass of Qwen2, Qwen2-MoE, Qwen3, Qwen3-MoE, first-generation Qwen and, for text, Qwen2-VL in numpy.

Written from the published model definitions; full causal attention, one sequence, positions 0..n-1.
`rope_reader` says whose eyes read config.json: '4' sees only the top-level rope_theta (transformers 4.x, default
10000 when absent), '5' prefers rope_parameters, 'any' takes whichever is there and fails when neither is.
"""

import numpy as np

from decode import OracleError

FAMILIES = ("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen3", "qwen3_moe", "qwen")


def rope_theta(config, rope_reader):
    top = config.get("rope_theta", config.get("rotary_emb_base"))
    nested = (config.get("rope_parameters") or {}).get("rope_theta")
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) not in ("default", "mrope"):  # for text the three axes of mrope are one
        raise OracleError("the oracle knows only the default rope")
    theta = {"4": top, "5": nested if nested is not None else top, "any": top if top is not None else nested}[rope_reader]
    if theta is None and rope_reader == "any":
        raise OracleError("config.json holds no rope base")
    return 10000.0 if theta is None else theta


def rms_norm(x, weight, eps):
    return weight * (x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32) + np.float32(eps)))


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rotate(x, theta):
    """x is [heads, tokens, dim]; dimension j turns with dimension j + dim / 2."""
    tokens, half = x.shape[1], x.shape[2] // 2
    inverse = (1.0 / theta ** (np.arange(half, dtype=np.float32) * 2 / x.shape[2])).astype(np.float32)
    angle = np.arange(tokens, dtype=np.float32)[:, None] * inverse
    cos, sin = np.cos(angle), np.sin(angle)
    left, right = x[..., :half], x[..., half:]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


class Model:
    """Weights by name; a linear is either decoded (float32 [in, out]) or stored in full ([out, in])."""

    def __init__(self, config, linears, others, rope_reader="any"):
        if config.get("model_type") not in FAMILIES:
            raise OracleError(f"model_type '{config.get('model_type')}' is not one of {FAMILIES}")
        self.config, self.linears, self.others = config, linears, others
        self.old = config["model_type"] == "qwen"
        self.theta = rope_theta(config, rope_reader)
        self.eps = config.get("rms_norm_eps", config.get("layer_norm_epsilon"))
        self.heads = config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads") or self.heads
        self.dim = config.get("head_dim") or config["hidden_size"] // self.heads

    def get(self, name):
        return self.others[name].float32()

    def linear(self, x, prefix):
        y = x @ (self.linears[prefix] if prefix in self.linears else self.get(prefix + ".weight").T)
        return y + self.get(prefix + ".bias") if prefix + ".bias" in self.others else y

    def attention(self, x, prefix):
        if self.old:  # one fused projection
            parts = np.split(self.linear(x, prefix + ".c_attn"), 3, axis=-1)
        else:
            parts = [self.linear(x, f"{prefix}.{p}_proj") for p in "qkv"]
        q, k, v = (p.reshape(len(x), -1, self.dim).transpose(1, 0, 2) for p in parts)
        if prefix + ".q_norm.weight" in self.others:
            q = rms_norm(q, self.get(prefix + ".q_norm.weight"), self.eps)
            k = rms_norm(k, self.get(prefix + ".k_norm.weight"), self.eps)
        q, k = rotate(q, self.theta), rotate(k, self.theta)
        repeat = self.heads // self.kv_heads
        k, v = np.repeat(k, repeat, axis=0), np.repeat(v, repeat, axis=0)
        scores = q @ k.transpose(0, 2, 1) * np.float32(self.dim ** -0.5)
        scores = np.where(np.tril(np.ones((len(x), len(x)), bool)), scores, np.float32(-np.inf))
        mixed = (softmax(scores) @ v).transpose(1, 0, 2).reshape(len(x), -1)
        return self.linear(mixed, prefix + (".c_proj" if self.old else ".o_proj"))

    def swiglu(self, x, prefix):
        gate, up, down = ("w2", "w1", "c_proj") if self.old else ("gate_proj", "up_proj", "down_proj")
        return self.linear(silu(self.linear(x, f"{prefix}.{gate}")) * self.linear(x, f"{prefix}.{up}"), f"{prefix}.{down}")

    def experts(self, x, prefix):
        weight = softmax(self.linear(x, prefix + ".gate"))
        y = np.zeros_like(x)
        for token in range(len(x)):
            chosen = np.argsort(-weight[token], kind="stable")[:self.config["num_experts_per_tok"]]
            total = weight[token, chosen].sum() if self.config.get("norm_topk_prob") else np.float32(1)
            for e in chosen:
                y[token] += weight[token, e] / total * self.swiglu(x[token:token + 1], f"{prefix}.experts.{e}")[0]
        if prefix + ".shared_expert_gate.weight" not in self.others:
            return y
        shared = 1 / (1 + np.exp(-self.linear(x, prefix + ".shared_expert_gate")))
        return y + shared * self.swiglu(x, prefix + ".shared_expert")

    def forward(self, token_ids):
        """Returns logits [tokens, vocabulary] and the hidden states [layers + 1, tokens, hidden]."""
        base, attn, one, two, last = (
            ("transformer.h", "attn", "ln_1", "ln_2", "transformer.ln_f") if self.old else
            ("model.layers", "self_attn", "input_layernorm", "post_attention_layernorm", "model.norm"))
        embedding = self.get("transformer.wte.weight" if self.old else "model.embed_tokens.weight")
        x = embedding[token_ids]
        states = [x]
        for i in range(self.config["num_hidden_layers"]):
            layer = f"{base}.{i}"
            x = x + self.attention(rms_norm(x, self.get(f"{layer}.{one}.weight"), self.eps), f"{layer}.{attn}")
            y = rms_norm(x, self.get(f"{layer}.{two}.weight"), self.eps)
            moe = f"{layer}.mlp.gate.weight" in self.others
            x = x + (self.experts if moe else self.swiglu)(y, f"{layer}.mlp")
            states.append(x)
        states[-1] = rms_norm(x, self.get(last + ".weight"), self.eps)
        if "score.weight" in self.others:  # of every token; the model itself takes the last
            return self.linear(states[-1], "score"), np.stack(states)
        tied = self.config.get("tie_word_embeddings", False)
        head = embedding if tied else self.get("lm_head.weight")
        return states[-1] @ head.T, np.stack(states)
