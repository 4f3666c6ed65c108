"""Loads checkpoints the way a user of one loader stack would, and measures what came out.

    STACK/bin/python load_one.py STACK CHECKPOINT EXPECTED [CHECKPOINT EXPECTED ...]

Prints one line of JSON a checkpoint: what the loader reported (missing, unexpected and mismatched tensors), its
error if it raised one, and how far its logits are from those of EXPECTED (None if they are not all finite).
Several pairs share one process because importing a stack takes longer than loading a model of this size.
"""
import contextlib
import io
import json
import logging
import os
import pathlib
import sys
import time
import warnings

# GPTQModel's thread pools want more than two workers.
os.cpu_count = lambda: 4
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import GPTQConfig  # noqa: E402

from model_class import loader_class, token_logits  # noqa: E402

NAMES_SHOWN = 4


def loader_arguments(stack, checkpoint):
    """What the stack needs beyond the folder."""
    config = json.loads((checkpoint / "config.json").read_text())
    quantization = config.get("quantization_config") or {}
    arguments = {"torch_dtype" if stack.startswith("t4.40") else "dtype": torch.float16}
    if quantization.get("quant_method") != "gptq":
        return arguments
    if stack.startswith("t4.40"):  # no exllama kernel on a CPU
        arguments["quantization_config"] = GPTQConfig(bits=quantization["bits"], use_exllama=False)
        arguments["device_map"] = {"": "cpu"}
        arguments["attn_implementation"] = "eager"
    if stack == "t4.57":  # the default CPU kernel ignores asymmetric zero points
        arguments["quantization_config"] = GPTQConfig(bits=quantization["bits"], backend="torch")
    return arguments


def load(stack, checkpoint, expected):
    """The loader's report and the largest difference of a logit; a classifier's are those of every token."""
    model, info = loader_class(checkpoint).from_pretrained(
        checkpoint, output_loading_info=True, **loader_arguments(stack, checkpoint))
    reference = load_file(expected)
    logits = token_logits(model, reference["input_ids"])
    return info, (logits - reference["logits"]).abs().max().item()


def one_line(error):
    """The exception's type and the first line of its text, short enough for a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def measure(stack, checkpoint, expected):
    started = time.monotonic()
    result = {"missing": None, "unexpected": None, "mismatched": None, "error": None,
              "max_abs_logit_diff": None, "finite": None}
    try:
        info, difference = load(stack, checkpoint, expected)
        for kind in ("missing", "unexpected", "mismatched"):
            names = sorted(str(key) for key in info[f"{kind}_keys"])
            result[kind] = {"count": len(names), "first": names[:NAMES_SHOWN]}
        result["finite"] = difference == difference and difference != float("inf")
        if result["finite"]:
            result["max_abs_logit_diff"] = difference
    except Exception as error:  # whatever a loader raises is a result here
        result["error"] = one_line(error)
    result["seconds"] = round(time.monotonic() - started, 2)
    return result


def main():
    stack, *paths = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    for checkpoint, expected in zip(paths[0::2], paths[1::2]):
        with contextlib.redirect_stdout(io.StringIO()):  # loaders print; stdout is for the results
            result = measure(stack, pathlib.Path(checkpoint), expected)
        print(json.dumps({"checkpoint": checkpoint, **result}), flush=True)


main()
