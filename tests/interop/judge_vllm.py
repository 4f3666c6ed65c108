"""vLLM loads the folder, and its log-probabilities after each token are the expected ones."""
import os

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
               "VLLM_NO_USAGE_STATS": "1", "VLLM_TARGET_DEVICE": "cpu"}
import gc  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import vllm._custom_ops  # noqa: E402,F401 – loads the kernels, which judge() asks for before any model does
from vllm import LLM, SamplingParams  # noqa: E402

from judging import NotRun, config_of, divergence, expected, is_classifier, run, within  # noqa: E402

ALLOWED = {"float16": 1e-5, "bfloat16": 1e-4}  # bfloat16 configs make it compute in bfloat16


def bits_of(config):
    quantization = config.get("quantization_config") or {}
    groups = quantization.get("config_groups")
    return next(iter(groups.values()))["weights"]["num_bits"] if groups else quantization.get("bits")


def judge(out, fixture):
    config = config_of(out)
    if bits_of(config) not in (4, None):
        raise NotRun(f"vLLM has no kernel for {bits_of(config)} bits on a CPU")
    if "vision_config" in config:
        raise NotRun("vLLM's vision models need torchvision, which this stack leaves out")
    if not hasattr(torch.ops._C, "cpu_gemm_wna16"):
        raise NotRun("this vLLM has no kernel of 4 bits for this processor")
    if is_classifier(out):
        raise NotRun("vLLM gives log-probabilities of causal language models only")
    ids, wanted = expected(fixture)
    words = wanted.shape[1]
    model = LLM(str(out), max_model_len=64, max_logprobs=words, enforce_eager=True, skip_tokenizer_init=True)
    try:
        done = model.generate({"prompt_token_ids": ids}, SamplingParams(
            max_tokens=1, temperature=0, prompt_logprobs=words, logprobs=words, detokenize=False), use_tqdm=False)[0]
        rows = done.prompt_logprobs[1:] + done.outputs[0].logprobs[:1]
        got = np.array([[row[token].logprob for token in range(words)] for row in rows])
    finally:
        del model
        gc.collect()
    kind = config.get("dtype") or config.get("torch_dtype")
    return within("KL", divergence(wanted, got), ALLOWED[kind])


run(judge)
