#!/usr/bin/python3
"""Runs check_fixture over every fixture, for every target of the binary when one is given.

    check_all.py FIXTURES_DIR [BINARY]

Prints one line a check and exits 1 if any failed.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import channels
import made
from check_fixture import Fixture
from decode import OracleError
from rules import LAYOUTS

# Layouts that no target takes by itself, on a fixture that fits them and one that does not; Q4_1 and Q8_0 embeddings.
EXTRA = [("autogptq-0.7.1-int4-g32-asym-tied", "awq", "--layout=awq-gemv"), ("autogptq-0.7.1-int4-g64-static-actorder", "awq", "--layout=awq-gemv"),
         ("published-int4-g128-sharded", "awq", "--layout=awq-gemv"), ("autogptq-0.7.1-int4-g64-actorder", "awq", "--layout=awq-gemv"),
         ("autogptq-0.7.1-int4-g64-static-actorder", "awq", "--layout=awq-gemv-fast"), ("published-int4-g128-sharded", "awq", "--layout=awq-gemv-fast"),
         ("autogptq-0.7.1-int8-g128-sym-tied", "awq", "--layout=awq-gemv-fast"),
         ("autogptq-0.7.1-int3-g128-sym", "compressed-tensors", "--layout=compressed-tensors-2025"),
         ("autogptq-0.7.1-int2-g64-asym", "compressed-tensors", "--layout=compressed-tensors-2025"),
         ("published-int4-g128-sharded", "vllm", "--layout=gptq-v1"), ("autogptq-0.7.1-int4-g32-asym-tied", "vllm", "--layout=gptq-v1"),
         ("autogptq-0.7.1-int4-g32-asym-tied", "gguf", "--allow-rounding"), ("published-int4-g128-sharded", "gguf", "--allow-rounding"),
         ("autogptq-0.7.1-moe-int4-g64", "gguf", "--allow-rounding"),
         ("gptqmodel-7.7-qwen2-vl-int4-g64", "gguf", "--text-only"), ("gptqmodel-7.7-qwen2.5-vl-int4-g128", "gguf", "--text-only"),
         ("gptqmodel-7.7-qwen2-vl-int4-g64", "transformers-5.x", "--text-only"),
         # Channels of zeros: whole groups, part of one, one group for all inputs; in the layout there is and in others.
         ("published-int4-g128-sharded", "transformers-4.x", "--pad-intermediate=384"), ("published-int4-g128-sharded", "awq", "--pad-intermediate=384"),
         ("published-int4-g128-sharded", "gguf", "--pad-intermediate=384"), ("autogptq-0.7.1-int4-g32-asym-tied", "vllm", "--pad-intermediate=448"),
         ("autogptq-0.7.1-int4-g64-actorder", "transformers-5.x", "--pad-intermediate=544"), ("autogptq-0.7.1-int4-perchannel-actorder", "transformers-4.x", "--pad-intermediate=544"),
         ("autogptq-0.7.1-int4-perchannel-actorder", "compressed-tensors", "--pad-intermediate=544"), ("autogptq-0.7.1-moe-int4-g64", "transformers-4.x", "--pad-intermediate=160"),
         ("published-int4-g128-sharded", "optimum-1.19", "--pad-intermediate=384"), ("autogptq-0.7.1-int3-g128-sym", "dense-fp32", "--pad-intermediate=384"),
         ("scattered-down-autogptq-0.7.1-int4-g32-asym-tied", "awq", "--pad-intermediate=448"),
         # Groups cut smaller.
         ("published-int4-g128-sharded", "transformers-4.x", "--group-size=64"), ("autogptq-0.7.1-int4-perchannel-actorder", "transformers-5.x", "--group-size=128"),
         ("autogptq-0.7.1-int4-g64-static-actorder", "vllm", "--group-size=32"), ("scattered-down-autogptq-0.7.1-int4-g64-static-actorder", "awq", "--group-size=32")]


def main(arguments):
    if len(arguments) not in (1, 2):
        sys.exit(__doc__)
    counts = {"passed": 0, "failed": 0}

    def report(name, what, check):
        try:
            print(f"ok   {name:44} {what:32} {check()}")
            counts["passed"] += 1
            return
        except (OracleError, KeyError, ValueError, OSError) as error:
            print(f"FAIL {name:44} {what:32} {type(error).__name__}: {error}", flush=True)
        counts["failed"] += 1

    targets = []
    if len(arguments) == 2:
        listed = subprocess.run([arguments[1], "--list-targets", "--json"], capture_output=True, text=True, check=True)
        targets = [target["name"] for target in json.loads(listed.stdout)["targets"]]
        report("--list-targets", "every target has rules", lambda: check_known(targets))
    with tempfile.TemporaryDirectory() as temp:
        folders = [path.resolve().parent for path in pathlib.Path(arguments[0]).glob("**/checkpoint") if (path / "config.json").exists()]
        folders += made.write_all(pathlib.Path(temp))
        folders += channels.write_all(pathlib.Path(arguments[0]).resolve(), pathlib.Path(temp))
        for folder in sorted(folders, key=lambda path: path.name):
            fixture = Fixture(folder)
            report(folder.name, "source", fixture.check)
            for target in targets if fixture.grid else []:
                report(folder.name, target, lambda: fixture.check_target(arguments[1], target))
            for name, target, option in EXTRA if targets else []:
                if name == folder.name:
                    report(folder.name, f"{target} {option}", lambda: fixture.check_target(arguments[1], target, option))
    print(f"{counts['passed']} passed, {counts['failed']} failed")
    return 1 if counts["failed"] or not counts["passed"] else 0


def check_known(targets):
    unknown = set(targets) - LAYOUTS.keys() - {"gguf"}
    if unknown:
        raise OracleError(f"rules.py does not know {sorted(unknown)}")
    return f"{len(targets)} targets"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
