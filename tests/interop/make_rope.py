#!/usr/bin/env python3
"""Makes fixtures/rope/expected.safetensors: make_rope.py CONVERTER. Runs in the stack t4.57.

Logits that transformers computes for a float32 copy of published-int4-g128-sharded whose config asks for a scaled
rope or a sliding window.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENS = [261, 346, 292, 344, 10, 281, 14, 306, 75, 473, 31, 15]


def scaled(kind, **factors):
    return {"rope_scaling": {"type": kind, "rope_type": kind, **factors}}


CASES = {
    "linear": scaled("linear", factor=4.0),
    "dynamic": scaled("dynamic", factor=2.0),
    "dynamic-beyond": {"max_position_embeddings": 8, **scaled("dynamic", factor=2.0)},
    "yarn": scaled("yarn", factor=4.0, original_max_position_embeddings=64),
    "yarn-factors": scaled("yarn", factor=8.0, original_max_position_embeddings=32, beta_fast=16.0, beta_slow=2.0, attention_factor=1.1),
    "sliding": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
}


def main(converter):
    tensors = {"input_ids": torch.tensor(TOKENS)}
    for name, edit in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder, "dense")
            subprocess.run([converter, ROOT / "fixtures/published-int4-g128-sharded/checkpoint", out, "--target=dense-fp32", "--quiet"], check=True)
            config = json.loads((out / "config.json").read_text())
            del config["rope_parameters"]
            (out / "config.json").write_text(json.dumps({**config, **edit}))
            model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
            with torch.no_grad():
                tensors[f"logits.{name}"] = model(torch.tensor([TOKENS])).logits[0].contiguous()
    save_file(tensors, ROOT / "fixtures/rope/expected.safetensors", {"cases": json.dumps(CASES)})


if __name__ == "__main__":
    main(sys.argv[1])
