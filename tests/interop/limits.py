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
    ("t4.40-o1.20", "gptqmodel-7.7-qwen3-moe-int4-g64", r"model type `qwen3_moe`", "transformers 4.40 has no Qwen3-MoE"),
    ("t4.40-o1.20", "gptqmodel-7.7-qwen2-vl-int4-g64", r"model type `qwen2_vl`", "transformers 4.40 has no Qwen2-VL"),
    ("t4.40-o1.20", "gptqmodel-7.7-qwen2.5-vl-int4-g128", r"model type `qwen2_5_vl`", "transformers 4.40 has no Qwen2.5-VL"),
]

# What the converter refuses: (fixture, targets, the finding its message must name). Loaded all the same, the MoE
# fixture shows 4 missing, 96 unexpected and logits off by 1.4 in t5: transformers 5 fuses the experts of a layer.
EVERY_TARGET = sorted({stack["target"] for stack in STACKS.values()})
REFUSALS = [
    ("autogptq-0.7.1-int4-g32-asym-wrapped-zeros", ["transformers-4.x", "optimum-1.19"], "[layout-cannot-hold]"),
    ("autogptq-0.7.1-moe-int4-g64", ["transformers-5.x"], "[target-architecture]"),
    ("gptqmodel-7.7-qwen3-int4-g64", ["optimum-1.19"], "[target-architecture]"),
    ("gptqmodel-7.7-qwen3-moe-int4-g64", ["optimum-1.19", "transformers-5.x"], "[target-architecture]"),
    ("gptqmodel-7.7-qwen2-vl-int4-g64", ["optimum-1.19"], "[target-architecture]"),
    ("gptqmodel-7.7-qwen2.5-vl-int4-g128", ["optimum-1.19"], "[target-architecture]"),
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


# The matrix of fixtures and targets (matrix.py). What a target must refuse follows from what its layout can hold; the
# facts of a fixture are those of facts.py, which decodes it without the tool.


def splits_into(facts, sizes):
    """Every group is one of the sizes or can be cut into equal ones; 0 stands for a single group."""
    def fits(inputs, groups):
        width = inputs if groups == 1 else -(-inputs // groups)
        return (groups == 1 and 0 in sizes) or any(size and width % size == 0 and inputs % size == 0 for size in sizes)
    return all(fits(inputs, groups) for inputs, _, groups in facts["shapes"])


def ragged(facts):
    return any(inputs % groups for inputs, _, groups in facts["shapes"])


CANNOT_HOLD = "[layout-cannot-hold]"
NO_ACT_ORDER = (CANNOT_HOLD, lambda facts: facts["act_order"])
NOT_RAGGED = (CANNOT_HOLD, ragged)
FOUR_BITS = (CANNOT_HOLD, lambda facts: facts["bits"] != 4)
SYMMETRIC = (CANNOT_HOLD, lambda facts: not facts["symmetric"])
VLLM_KERNELS = (CANNOT_HOLD, lambda facts: facts["bits"] not in (4, 8) or not splits_into(facts, (0, 32, 64, 128)))
# GPTQModel wants the names of newer transformers: with those written here it misses every quantised linear.
NESTED_NAMES = ("[target-architecture]", lambda facts: facts["vision"])
VERSION_1 = (CANNOT_HOLD, lambda facts: facts["zero_0"])

# target: (finding, condition) pairs; one that holds is enough. A target that is not here is not judged.
REFUSES = {
    "optimum-1.19": [VERSION_1, ("[target-architecture]", lambda facts: facts["vision"] or facts["model_type"] in ("qwen3", "qwen3_moe"))],
    "transformers-4.x": [VERSION_1],
    "transformers-5.x": [("[target-architecture]", lambda facts: facts["model_type"].endswith("_moe"))],
    "gptqmodel": [NESTED_NAMES],
    "gptqmodel-v2": [NESTED_NAMES],
    "compressed-tensors": [NO_ACT_ORDER, NOT_RAGGED],
    "vllm": [NO_ACT_ORDER, NOT_RAGGED, VLLM_KERNELS],
    "vllm-gptq": [NO_ACT_ORDER, NOT_RAGGED, VLLM_KERNELS, SYMMETRIC],
    "awq": [FOUR_BITS, NO_ACT_ORDER, NOT_RAGGED,
            (CANNOT_HOLD, lambda facts: any(outputs % 8 for _, outputs, _ in facts["shapes"]))],
    "marlin": [FOUR_BITS, NO_ACT_ORDER, NOT_RAGGED, SYMMETRIC,
               (CANNOT_HOLD, lambda facts: not splits_into(facts, (0, 128))),
               (CANNOT_HOLD, lambda facts: any(inputs % 128 or outputs % 256
                                               for inputs, outputs, _ in facts["shapes"]))],
    # mlx-lm 0.32.2 stacks the weights of Qwen3's experts, not their scales: "Received 48 parameters not in model".
    "mlx": [("[target-architecture]", lambda facts: facts["model_type"] == "qwen3_moe"),
            NO_ACT_ORDER, NOT_RAGGED, (CANNOT_HOLD, lambda facts: not splits_into(facts, (32, 64, 128)))],
    "gguf": [("[vision-gguf]", lambda facts: facts["vision"]), ("[gguf-name]", lambda facts: facts["head"] == "score"),
             NO_ACT_ORDER, (CANNOT_HOLD, lambda facts: not splits_into(facts, (32,))),
             (CANNOT_HOLD, lambda facts: facts["bits"] == 8 and not facts["int8"])],
    "dense-fp32": [],
    "dense-fp16": [],
    "dense-bf16": [],
}

# Refused whatever the target.
REFUSES_ALWAYS = [
]

# Where values may change by rounding, which the tool does only when told to: with --allow-rounding such a cell is
# converted and marked. In every other cell rounding is a failure.
ROUNDS = {
    "dense-fp16": lambda facts: True,
    "dense-bf16": lambda facts: True,
    "mlx": lambda facts: not facts["symmetric"],
    "gguf": lambda facts: "BF16" in facts["scales"],
    "marlin": lambda facts: "BF16" in facts["scales"],
}

# judge: its program, its stack, and the targets whose outputs it is given.
JUDGES = {
    "compressed-tensors 0.20": ("judge_compressed_tensors.py", "peers", ["vllm", "compressed-tensors"]),
    "gguf 0.19": ("judge_gguf.py", "peers", ["gguf"]),
    "mlx-lm 0.32": ("judge_mlx.py", "peers", ["mlx"]),
    "transformers 5.23": ("judge_transformers.py", "t5",
                          ["vllm", "compressed-tensors", "transformers-5.x", "dense-fp16", "dense-bf16", "dense-fp32"]),
    "GPTQModel 7.7": ("judge_gptqmodel.py", "t5", ["gptqmodel", "gptqmodel-v2", "awq", "marlin"]),
    "AutoGPTQ 0.7.1": ("judge_autogptq.py", "t4.40-o1.20", ["gptqmodel", "gptqmodel-v2", "marlin"]),
    "llama.cpp": ("judge_llama.py", "llama", ["gguf"]),
    "vLLM 0.32": ("judge_vllm.py", "vllm", ["vllm", "vllm-gptq"]),
}

# Limits of these libraries, seen on correct files: (judge, condition on target and facts, symptom, reason). Such a cell
# must show the symptom, so a library that starts to work, or fails in another way, is reported.
JUDGE_LIMITS = [
    # The same with the untouched optimum-1.19.2-int4-g128-sharded, which stores no head either.
    ("AutoGPTQ 0.7.1", lambda target, facts: target == "gptqmodel" and facts["tied"], r"^logits within",
     "its own loader leaves a tied head uninitialised if the file has no tensor for it"),
    ("transformers 5.23", lambda target, facts: target == "transformers-5.x" and facts.get("bits") == 4 and any(
        inputs // groups not in (32, 64, 128, 256) for inputs, _, groups in facts["shapes"]),
     r"expect qGroupSize to be 32, 64, 128 or 256",
     "the int4 kernel for CPUs of GPTQModel 7.7 knows no other group sizes"),
    ("GPTQModel 7.7", lambda target, facts: target == "awq" and facts["vision"], r"^logits within",
     "it looks for nested names only, and leaves what it does not find uninitialised (transformers 5.23 loads the folder)"),
    ("vLLM 0.32", lambda target, facts: facts["model_type"].endswith("_moe"), r"No WNA16 MoE backend",
     "no kernel for quantised experts on a CPU"),
]

# Where the logits of a correct output may be further off than a judge allows: offsets that became whole zero points.
MAY_DIFFER = (lambda target, facts: facts.get("fractional") and target != "mlx", r"^(clean, )?(logits within|KL) ")
