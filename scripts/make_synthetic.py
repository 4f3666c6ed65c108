#!/usr/bin/python3
"""Write a synthetic GPTQ Qwen2 checkpoint at real shapes, with AutoGPTQ 0.7.1's habits.

The weights are random, but everything a converter looks at is as AutoGPTQ 0.7.1 leaves it:
qweight, qzeros (v1: z - 1), scales, g_idx and a bias on every linear, all-zero on o, gate, up
and down; all I32 tensors before all F16 tensors, each kind sorted by name; the tool's metadata;
config.json and quantize_config.json that agree. Side files are small and plausible.

The form follows the shards:
  --shard-size=0    one file gptq_model-4bit-128g.safetensors, as AutoGPTQ itself writes it
  --shard-size=4GB  (default) as Qwen2 was published: split in module order into
                    model-0000i-of-0000N.safetensors with an index (model.safetensors if one suffices)

  --container=bin   the same names with .bin (pytorch_model… where sharded): what torch.save writes

Tied models (0.5B, 1.5B) do not store lm_head.weight, as published. 72B-layer is not a whole
model: two layers of the 72B shape (padded to 29696, as published) and a vocabulary cut to 1024.
72B-moe (41,523 tensors) and 235B-moe (Qwen3's sizes, 146,361 tensors) are for planning, with
--sparse: codes, scales and large float matrices are holes, which read as zeros. What a plan judges
by its values is there: zero points, group indices, biases, norms.
235B-names has the same names at the smallest sizes: what a plan of 235B-moe costs without its data.

The large tensors come from one random block of 32 MiB per kind, used again at random offsets:
cheap to write, not worth compressing, different in each tensor. The same options give the same
bytes. Codes follow a normal distribution around the zero point; scales are positive and finite.
Needs numpy. Memory stays under 256 MiB.
"""
import argparse
import collections
import functools
import json
import os
import random
import statistics
import sys
import time
import zlib

import numpy as np

from synthetic_files import size_of, write_safetensors, write_torch

Shape = collections.namedtuple("Shape", "hidden inter layers heads kv_heads vocab tied family head_dim experts expert_inter shared_inter",
                               defaults=("qwen2", None, 0, 0, 0))
SHAPES = {
    "0.5B": Shape(896, 4864, 24, 14, 2, 151936, True),
    "1.5B": Shape(1536, 8960, 28, 12, 2, 151936, True),
    "7B": Shape(3584, 18944, 28, 28, 4, 152064, False),
    "72B-layer": Shape(8192, 29696, 2, 64, 8, 1024, False),
    "72B-moe": Shape(8192, 29696, 80, 64, 8, 152064, False, "qwen2_moe", None, 32, 896, 896),
    "235B-moe": Shape(4096, 12288, 94, 64, 4, 151936, False, "qwen3_moe", 128, 128, 1536, 0),
    "235B-names": Shape(128, 128, 94, 2, 1, 512, False, "qwen3_moe", 64, 128, 128, 0),
    "tiny": Shape(128, 512, 2, 2, 1, 512, False),
    "tiny-qwen2-moe": Shape(128, 512, 2, 2, 1, 512, False, "qwen2_moe", None, 4, 128, 256),
    "tiny-qwen3-moe": Shape(128, 512, 2, 2, 1, 512, False, "qwen3_moe", 64, 4, 128, 0),
}
# class, biases on q, k and v, all-zero biases on the others (AutoGPTQ never wrote Qwen3), norms of q and k
Family = collections.namedtuple("Family", "name qkv_bias zero_bias head_norms")
FAMILIES = {
    "qwen2": Family("Qwen2ForCausalLM", True, True, False),
    "qwen2_moe": Family("Qwen2MoeForCausalLM", True, True, False),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", False, False, True),
}
# Known sums for group size 128 with the biases q, k, v only: tensors, Int4 bytes, Int8 bytes.
KNOWN = {
    "0.5B": (794, 459_297_536, 639_608_576),
    "1.5B": (926, 1_149_760_512, 1_809_976_320),
    "7B": (927, 5_575_277_568, 8_863_411_200),
}
BLOCK = 32 << 20
CHUNK = 8 << 20
HOLES = ("float_matrix", "scale_matrix", "qweight")  # makers that --sparse leaves out


class Block:
    """Random values of one distribution; pieces() lends slices of it without copying."""

    def __init__(self, seed, values):
        # values: 65536 equally likely outcomes, so that a draw is one table look-up
        self.bytes = np.empty(BLOCK, np.uint8)
        draws = self.bytes.view(values.dtype)
        rng = np.random.default_rng(seed)
        for i in range(0, draws.size, 1 << 20):
            part = draws[i:i + (1 << 20)]
            values.take(rng.integers(0, 65536, part.size, np.uint16), out=part)

    def pieces(self, size, key, chunk=CHUNK):
        rng = random.Random(key)
        while size:
            n = min(size, chunk)
            at = rng.randrange((BLOCK - n) // 4 + 1) * 4
            yield self.bytes[at:at + n]
            size -= n


def normal(count):
    inverse = statistics.NormalDist().inv_cdf
    return np.array([inverse((i + 0.5) / count) for i in range(count)])


def code_values(bits, asym):
    # Symmetric: the whole range, around 2^(bits-1). Asymmetric: narrower, to leave room for the shift.
    middle, unit = 1 << (bits - 1), 1 << (bits - 4)
    room = 3 * unit if asym else 0
    lowest = room + 1 if asym else 0  # the narrower range is cut alike on both sides
    def codes(n):
        return np.clip(np.rint(middle + 2.7 * unit * normal(n)), lowest, 2 * middle - 1 - room).astype(np.uint8)
    if bits == 8:
        return codes(65536)
    low = np.tile(codes(256), 256)
    return low | (np.repeat(codes(256), 256) << 4)


class Model:
    def __init__(self, args):
        self.bits, self.asym, self.seed = args.bits, args.asym, args.seed
        self.shape = SHAPES[args.shape]
        self.family = FAMILIES[self.shape.family]
        self.group, self.zero_bias = args.group_size, args.zero_bias and self.family.zero_bias
        self.head_dim = self.shape.head_dim or self.shape.hidden // self.shape.heads

    @functools.cached_property
    def codes(self):
        return Block([self.seed, 0], code_values(self.bits, self.asym))

    @functools.cached_property
    def floats(self):
        return Block([self.seed, 1], (0.02 * normal(65536)).astype("<f2"))

    @functools.cached_property
    def scales(self):
        return Block([self.seed, 2], (0.006 * np.exp(0.25 * normal(65536)) / (1 << (self.bits - 4))).astype("<f2"))

    def linears(self):
        """(name, inputs, outputs, real bias) of one layer, in module order."""
        s = self.shape
        wide, kv = s.heads * self.head_dim, s.kv_heads * self.head_dim
        yield "self_attn.q_proj", s.hidden, wide, self.family.qkv_bias
        yield "self_attn.k_proj", s.hidden, kv, self.family.qkv_bias
        yield "self_attn.v_proj", s.hidden, kv, self.family.qkv_bias
        yield "self_attn.o_proj", wide, s.hidden, False
        experts = [(f"experts.{e}.", s.expert_inter) for e in range(s.experts)]
        shared = [("shared_expert.", s.shared_inter)] if s.shared_inter else []
        for part, inter in experts + shared or [("", s.inter)]:
            yield f"mlp.{part}gate_proj", s.hidden, inter, False
            yield f"mlp.{part}up_proj", s.hidden, inter, False
            yield f"mlp.{part}down_proj", inter, s.hidden, False

    def tensors(self):
        """(name, dtype, shape, maker of its bytes) in module order, the order shards are cut in."""
        s = self.shape
        yield "model.embed_tokens.weight", "F16", (s.vocab, s.hidden), self.float_matrix
        for i in range(s.layers):
            p = f"model.layers.{i}."
            for name, k, n, real_bias in self.linears():
                groups = -(-k // self.group_of(k))
                yield p + name + ".qweight", "I32", (k * self.bits // 32, n), self.qweight
                yield p + name + ".qzeros", "I32", (groups, n * self.bits // 32), self.qzeros
                yield p + name + ".scales", "F16", (groups, n), self.scale_matrix
                yield p + name + ".g_idx", "I32", (k,), self.g_idx
                if real_bias:
                    yield p + name + ".bias", "F16", (n,), self.real_bias
                elif self.zero_bias:
                    yield p + name + ".bias", "F16", (n,), self.no_bias
            if s.experts:
                yield p + "mlp.gate.weight", "F16", (s.experts, s.hidden), self.float_matrix
            if s.shared_inter:
                yield p + "mlp.shared_expert_gate.weight", "F16", (1, s.hidden), self.float_matrix
            for name in ("self_attn.q_norm", "self_attn.k_norm") if self.family.head_norms else ():
                yield f"{p}{name}.weight", "F16", (self.head_dim,), self.norm
            yield p + "input_layernorm.weight", "F16", (s.hidden,), self.norm
            yield p + "post_attention_layernorm.weight", "F16", (s.hidden,), self.norm
        yield "model.norm.weight", "F16", (s.hidden,), self.norm
        if not s.tied:
            yield "lm_head.weight", "F16", (s.vocab, s.hidden), self.float_matrix

    def group_of(self, k):
        return k if self.group == -1 else self.group

    def rng(self, name):
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def key(self, name):
        return f"{self.seed} {name}"

    def float_matrix(self, name, shape):
        return self.floats.pieces(shape[0] * shape[1] * 2, self.key(name))

    def scale_matrix(self, name, shape):
        return self.scales.pieces(shape[0] * shape[1] * 2, self.key(name))

    def norm(self, name, shape):
        yield self.rng(name).normal(1, 0.05, shape).astype("<f2")

    def real_bias(self, name, shape):
        yield self.rng(name).uniform(0.01, 0.3, shape).astype("<f2") * self.rng(name + "+-").choice([-1, 1], shape).astype("<f2")

    def no_bias(self, name, shape):
        yield np.zeros(shape, "<f2")

    def g_idx(self, name, shape):
        yield (np.arange(shape[0]) // self.group_of(shape[0])).astype("<i4")

    def shifts(self, linear, groups, outputs):
        """Asymmetric only: how far each group's codes and zero point lie from the middle."""
        unit = 1 << (self.bits - 4)
        return self.rng(linear).integers(-3 * unit, 3 * unit + 1, (groups, outputs), np.int32)

    def qzeros(self, name, shape):
        per_word = 32 // self.bits
        field = (1 << (self.bits - 1)) - 1  # v1 stores z - 1
        fields = np.full((shape[0], shape[1] * per_word), field, np.uint32)
        if self.asym:
            fields += self.shifts(name.rpartition(".")[0], *fields.shape).view(np.uint32)
        words = np.zeros(shape, "<u4")
        for i in range(per_word):
            words |= fields[:, i::per_word] << np.uint32(i * self.bits)
        yield words

    def qweight(self, name, shape):
        rows, outputs = shape
        if not self.asym:
            yield from self.codes.pieces(rows * outputs * 4, self.key(name))
            return
        # One word holds codes of one output, so a group's shift is one addition per word;
        # the codes leave room for it, hence no carry.
        k = rows * 32 // self.bits
        group_rows = self.group_of(k) * self.bits // 32
        ones = np.uint32(0x11111111 if self.bits == 4 else 0x01010101)
        shifts = self.shifts(name.rpartition(".")[0], -(-rows // group_rows), outputs).view(np.uint32)
        step = max(1, min(group_rows, CHUNK // (outputs * 4)))
        for g in range(len(shifts)):
            add = shifts[g] * ones
            for row in range(g * group_rows, min((g + 1) * group_rows, rows), step):
                n = min(step, (g + 1) * group_rows - row, rows - row)
                for piece in self.codes.pieces(n * outputs * 4, f"{self.key(name)} {row}"):
                    yield piece.view("<u4").reshape(n, outputs) + add


def cut(tensors, limit):
    """Transformers' rule: a new shard when the next tensor would pass the limit."""
    shards, used = [[]], 0
    for t in tensors:
        if limit and used + size_of(t) > limit and shards[-1]:
            shards.append([])
            used = 0
        shards[-1].append(t)
        used += size_of(t)
    return shards


def write_json(path, value, sort=False, end=""):
    with open(path, "w") as f:
        f.write(json.dumps(value, indent=2, sort_keys=sort) + end)


def write_configs(out, m, base_name):
    quantize = {
        "bits": m.bits, "group_size": m.group, "damp_percent": 0.01, "desc_act": False,
        "static_groups": False, "sym": not m.asym, "true_sequential": True, "model_name_or_path": None,
        "model_file_base_name": base_name, "is_marlin_format": False, "quant_method": "gptq"}
    write_json(f"{out}/quantize_config.json", quantize)
    s = m.shape
    config = {
        "_name_or_path": "synthetic", "architectures": [m.family.name], "attention_dropout": 0.0,
        "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": s.hidden,
        "initializer_range": 0.02, "intermediate_size": s.inter, "max_position_embeddings": 32768,
        "max_window_layers": s.layers, "model_type": s.family, "num_attention_heads": s.heads,
        "num_hidden_layers": s.layers, "num_key_value_heads": s.kv_heads, "pad_token_id": 0,
        "quantization_config": quantize, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": s.tied, "torch_dtype": "float16",
        "transformers_version": "4.40.2", "use_cache": True, "use_sliding_window": False,
        "vocab_size": s.vocab}
    if s.experts:
        config |= {
            "decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": s.expert_inter,
            "norm_topk_prob": False, "num_experts": s.experts, "num_experts_per_tok": min(8, s.experts),
            "output_router_logits": False, "router_aux_loss_coef": 0.001}
    if s.shared_inter:
        config["shared_expert_intermediate_size"] = s.shared_inter
    if s.head_dim:
        config |= {"attention_bias": False, "head_dim": s.head_dim}
    write_json(f"{out}/config.json", config, sort=True, end="\n")


def write_side_files(out):
    """A byte-level tokenizer without merges; its three special tokens are those in config.json."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write_json(f"{out}/tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": s, **flags} for i, s in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {s: i for i, s in enumerate(special + letters)}, "merges": []}})
    write_json(f"{out}/tokenizer_config.json", {
        "added_tokens_decoder": {str(i): {"content": s, **flags} for i, s in enumerate(special)},
        "bos_token": special[0], "eos_token": special[2], "pad_token": special[0],
        "model_max_length": 32768, "tokenizer_class": "PreTrainedTokenizerFast"}, end="\n")
    write_json(f"{out}/generation_config.json", {
        "bos_token_id": 0, "do_sample": True, "eos_token_id": [2, 0], "pad_token_id": 0,
        "repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "top_p": 0.8,
        "transformers_version": "4.40.2"}, end="\n")


def check_sums(args, tensors):
    if args.shape in KNOWN and args.group_size == 128:
        count, *sums = KNOWN[args.shape]
        biases = [t for t in tensors if t[3].__name__ == "no_bias"]
        found = len(tensors) - len(biases), sum(map(size_of, tensors)) - sum(map(size_of, biases))
        assert found == (count, sums[args.bits == 8]), f"tensors and bytes {found}, expected {count}, {sums}"


CONTAINERS = {"safetensors": ("model", write_safetensors), "bin": ("pytorch_model", write_torch)}  # stem of the names, writer


def parse_size(text):
    for unit, factor in ("GB", 10**9), ("MB", 10**6), ("KB", 10**3):
        if text.upper().endswith(unit):
            return int(float(text[:-2]) * factor)
    return int(text)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("out", metavar="OUT", help="folder to write; must be new or empty")
    p.add_argument("--shape", required=True, choices=SHAPES)
    p.add_argument("--bits", type=int, default=4, choices=(4, 8))
    p.add_argument("--group-size", type=int, default=128, metavar="N", help="a multiple of 8, or -1: one group a column (default 128)")
    p.add_argument("--asym", action="store_true", help="zero points that differ (sym: false)")
    p.add_argument("--shard-size", type=parse_size, default=4 * 10**9, metavar="SIZE", help="decimal, e.g. 4GB (default); 0: one file, AutoGPTQ's own name")
    p.add_argument("--container", choices=CONTAINERS, default="safetensors")
    p.add_argument("--sparse", action="store_true", help="holes for codes, scales and large float matrices: for plans only")
    p.add_argument("--seed", type=int, default=0, metavar="N")
    p.add_argument("--no-zero-bias", dest="zero_bias", action="store_false", help="leave the all-zero biases out, as Qwen2.5 was published")
    args = p.parse_args()
    if args.group_size != -1 and (args.group_size < 8 or args.group_size % 8):
        p.error("argument --group-size: a multiple of 8, or -1")
    if args.seed < 0 or args.shard_size < 0:
        p.error("arguments --seed, --shard-size: not below 0")
    if args.sparse and args.container == "bin":
        p.error("--sparse: a torch ZIP has checksums over its zeros; use safetensors")
    if os.path.isdir(args.out) and os.listdir(args.out):
        p.error(f"'{args.out}' is not empty")

    start = time.monotonic()
    os.makedirs(args.out, exist_ok=True)
    m = Model(args)
    tensors = list(m.tensors())
    check_sums(args, tensors)
    if args.sparse:
        tensors = [(*t[:3], None if t[3].__name__ in HOLES else t[3]) for t in tensors]
    stem, write = CONTAINERS[args.container]
    shards = cut(tensors, args.shard_size)
    if args.shard_size == 0:
        metadata = {
            "format": "pt", "auto_gptq_version": "0.7.1", "gptq_is_marlin_format": "False",
            "gptq_group_size": str(m.group), "gptq_bits": str(m.bits), "gptq_desc_act": "False",
            "gptq_damp_percent": "0.01"}
        files = [f"gptq_model-{m.bits}bit-{m.group}g.{args.container}"]
    else:
        metadata = {"format": "pt"}
        n = len(shards)
        files = [f"{stem}-{i + 1:05d}-of-{n:05d}.{args.container}" for i in range(n)] if n > 1 else [f"{stem}.{args.container}"]
    for file, shard in zip(files, shards):
        write(f"{args.out}/{file}", shard, metadata)
    total = sum(map(size_of, tensors))
    if len(shards) > 1:
        weight_map = {t[0]: file for file, shard in zip(files, shards) for t in shard}
        write_json(f"{args.out}/{stem}.{args.container}.index.json",
                   {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}, end="\n")
    write_configs(args.out, m, None if args.shard_size == 0 else "model")
    write_side_files(args.out)
    print(f"{args.out}: {args.shape}, {len(tensors)} tensors, {total} bytes, {len(files)} weight file(s), "
          f"{time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
