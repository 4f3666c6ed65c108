"""What the judges have in common: STACK/bin/python judge_LIBRARY.py OUT FIXTURE [OUT FIXTURE ...]

OUT is a folder the tool wrote, FIXTURE the folder with the `checkpoint` it was made from and the `expected.safetensors`
beside it. Each pair gives one line of JSON: {"folder", "verdict": "ok" | "FAIL" | "not run", "text", "seconds"}.
"""
import json
import logging
import os
import pathlib
import sys
import time
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # compiling takes longer than all these little models run
warnings.filterwarnings("ignore")

# Libraries print, some of them while they are imported, some from C; stdout is for the results.
RESULTS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import numpy as np  # noqa: E402



class NotRun(Exception):
    """The library cannot take this file, and for a reason that is not in the file."""


class Wrong(Exception):
    """The library read something else than what the source holds."""


def require(condition, text):
    if not condition:
        raise Wrong(text)


def expected(fixture):
    """(token ids, logits [tokens, vocabulary]) of the fixture."""
    from grids import read_file
    tensors = read_file(fixture / "expected.safetensors")
    return tensors["input_ids"].array().ravel().tolist(), tensors["logits"].array()


def source_of(fixture):
    """grids.read, for the judges that compare number by number."""
    from grids import read
    if any((fixture / "checkpoint").glob("*.gguf")):
        raise NotRun("the source is a GGUF file, there is no second decoder for it")
    return read(fixture / "checkpoint")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def is_classifier(folder):
    return "Classification" in config_of(folder)["architectures"][0]


def holds_float32(folder):
    """Is some matrix stored in float32, as those are that came out of GGUF's blocks? Half precision then rounds it."""
    from grids import read_checkpoint
    return any(tensor.dtype == "F32" and len(tensor.shape) > 1 and not name.endswith(("scales", "weight_scale"))
               for name, tensor in read_checkpoint(folder).items())


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def divergence(wanted, got_log):
    """KL(wanted || got), the mean over the positions; `wanted` are logits, `got_log` logits or logarithms."""
    wanted, got = log_softmax(wanted), log_softmax(got_log)
    return float((np.exp(wanted) * (wanted - got)).sum(axis=-1).mean())


def within(name, value, limit):
    """The text for a measured value, or Wrong; a NaN is wrong too."""
    require(value <= limit, f"{name} {value:.2g}, allowed {limit:.0e}")
    return f"{name} {value:.1e}"


def same_names(got, wanted, what):
    missing, extra = sorted(set(wanted) - set(got)), sorted(set(got) - set(wanted))
    require(not missing, f"{len(missing)} {what} missing: {missing[0] if missing else ''}")
    require(not extra, f"{len(extra)} unknown {what}: {extra[0] if extra else ''}")


def same_numbers(name, got, wanted):
    got, wanted = np.asarray(got), np.asarray(wanted)
    require(got.shape == wanted.shape, f"{name}: shape {got.shape}, expected {wanted.shape}")
    different = int((got != wanted).sum())
    require(different == 0, f"{name}: {different} of {got.size} numbers differ")


def one_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def run(judge):
    """`judge(out, fixture)` returns the text of an "ok"."""
    logging.disable(logging.CRITICAL)
    paths = [pathlib.Path(path) for path in sys.argv[1:]]
    for out, fixture in zip(paths[0::2], paths[1::2]):
        started = time.monotonic()
        try:
            verdict, text = "ok", judge(out, fixture)
        except NotRun as reason:
            verdict, text = "not run", str(reason)
        except Wrong as reason:
            verdict, text = "FAIL", str(reason)
        except Exception as error:  # whatever a loader raises is a result here
            verdict, text = "FAIL", one_line(error)
        print(json.dumps({"folder": str(out), "verdict": verdict, "text": text,
                          "seconds": round(time.monotonic() - started, 2)}), file=RESULTS, flush=True)
