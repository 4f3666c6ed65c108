"""llama.cpp loads model.gguf, tokenises as the source's tokenizer does, and its logits are the expected ones."""
import json

import numpy as np
from llama_cpp import Llama
from tokenizers import Tokenizer

from judging import divergence, expected, require, run, within

# Its kernels round the activations to 8 bits.
ALLOWED = 2e-4
SENTENCES = ["def main(arguments):\n    return len(arguments) + 10\n", "Hello, world! It's 2026.",
             "  spaces   and\ttabs\n\n", "naïve café – 数字 12345", "<|im_start|>user\nHi<|im_end|>"]


def check_tokens(model, path):
    if not path.exists():
        return "no tokenizer.json to compare with"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    for sentence in SENTENCES:
        wanted = tokenizer.encode(sentence, add_special_tokens=False).ids
        got = model.tokenize(sentence.encode(), add_bos=False, special=True)
        require(got == wanted, f"{json.dumps(sentence)} is {got[:12]}, the source's tokenizer says {wanted[:12]}")
    return f"{len(SENTENCES)} texts tokenised alike"


def judge(out, fixture):
    ids, wanted = expected(fixture)
    model = Llama(str(out / "model.gguf"), n_ctx=64, n_threads=2, logits_all=True, verbose=False)
    try:
        texts = check_tokens(model, fixture / "checkpoint" / "tokenizer.json")
        model.eval(ids)
        kl = divergence(wanted, np.array(model.scores[:len(ids)]))
    finally:
        model.close()
    return within("KL", kl, ALLOWED) + ", " + texts


run(judge)
