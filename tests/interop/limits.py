"""What run.py holds the cells of its table against: the stacks, and where something else than a clean load is right."""

# stack: target of the conversion it is given, and how far its logits may be from the expected ones.
# The t4.40 stacks keep cos and sin in float16. The reason for each pin is in stacks.sh, for each argument in
# load_one.py (t4.57 runs the plain kernel there, because the default one ignores asymmetric zero points).
STACKS = {
    "t4.40-o1.19": {"target": "optimum-1.19", "tolerance": 2e-3},
    "t4.40-o1.20": {"target": "transformers-4.x", "tolerance": 2e-3},
    "t4.57": {"target": "transformers-4.x", "tolerance": 5e-5},
    "t5": {"target": "transformers-5.x", "tolerance": 5e-5},
}

# Limits of the loaders, seen on correct files: (stack, fixture, symptom, reason). The symptom is a regular expression
# the cell must match, so a loader that starts to work, or fails in another way, is reported.
LIMITS = [
    ("t4.57", "autogptq-0.7.1-int3-g128-sym", r"^logits off by [\d.]+$", "GPTQModel 5.6.12 decodes 3 bits wrongly"),
    ("t5", "autogptq-0.7.1-int4-perchannel-actorder", r"expect qGroupSize to be 32, 64, 128 or 256, got 512",
     "the int4 kernel for CPUs of GPTQModel 7.7 knows no other group sizes"),
    ("t4.40-o1.20", "gptqmodel-7.7-qwen3-int4-g64", r"model type `qwen3`", "transformers 4.40 has no Qwen3"),
]

# What the converter refuses: (fixture, targets, the finding its message must name). Loaded all the same, the MoE
# fixture shows 4 missing, 96 unexpected and logits off by 1.4 in t5: transformers 5 fuses the experts of a layer.
EVERY_TARGET = sorted({stack["target"] for stack in STACKS.values()})
REFUSALS = [
    ("autogptq-0.5.1-int4-g128-bin", EVERY_TARGET, "[container-pickle]"),
    ("autogptq-0.7.1-qwen1-int4-g64", EVERY_TARGET, "[architecture]"),
    ("gptqmodel-7.7-awq-g64", EVERY_TARGET, "[layout]"),
    ("autogptq-0.7.1-int4-g32-asym-wrapped-zeros", ["transformers-4.x", "optimum-1.19"], "[layout-cannot-hold]"),
    ("autogptq-0.7.1-moe-int4-g64", ["transformers-5.x"], "[target-architecture]"),
    ("gptqmodel-7.7-qwen3-int4-g64", ["optimum-1.19"], "[target-architecture]"),
]

# The proof that the loaders would notice: what the untouched fixtures must show, (fixture, stacks, symptom). Each of
# the extra biases is unexpected where no such bias is wanted; a re-saved checkpoint computes another model; and a
# checkpoint without those biases misses them where they are wanted.
EXTRA_BIASES = ("published-int4-g128-sharded", 8)
COUNTER_PROOFS = [
    ("published-int4-g128-sharded", ["t4.40-o1.20", "t4.57", "t5"], r"^8 unexpected, logits within"),
    ("resaved-transformers-5.23-int4-g128", ["t4.40-o1.20", "t4.57", "t5"], r"^logits off by"),
    ("gptqmodel-7.7-int4-g128", ["t4.40-o1.19"], r"8 missing$"),
]
