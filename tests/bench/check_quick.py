#!/usr/bin/python3
"""Runs the bench at tiny sizes: its table must have every row, with a number in each; whether targets pass is not asked.

    check_quick.py --binary=PATH
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).resolve().parent
PLAN = ["--dry-run --target=transformers-4.x", "--dry-run --target=transformers-4.x --json"]
# How rows begin, and what they contain further on; one row each, in any order.
ROWS = [
    ("strip tiny", "--verify=hash"), ("strip tiny", "--verify=forward"),
    *[(f"GPTQ -> {target} tiny", "--verify=hash") for target in ("compressed-tensors", "awq", "mlx", "gguf")],
    (".bin -> safetensors tiny", ""), ("qwen2-audit --read-data tiny", ""),
    *[("plan tiny:", end) for end in [*PLAN, "--dry-run --target=mlx"]],
    *[("plan tiny-qwen2-moe:", end) for end in [*PLAN, "--dry-run --target=mlx", "memory"]],
    *2 * [("plan tiny-qwen3-moe:", end) for end in [*PLAN, "--dry-run --target=compressed-tensors", "memory"]],
    ("--jobs=2", "mlx"), ("--jobs=2", "strip"),
    *[(f"growth, {kind}:", what) for kind in ("strip", "mlx") for what in ("time", "memory")],
    ("awq -> compressed-tensors beside", ""), ("gptq -> dense-bf16 beside", ""), ("memory of every run", ""),
]
OPTIONAL = ("--jobs=2", "awq -> ", "gptq -> ")  # may be not run here: no room in memory, no peers
NUMBER = re.compile(r"-?\d[\d.]* ")


def match(row, begin, contains):
    target = row[0]
    return target.startswith(begin) and (target.endswith(contains) if contains.startswith("--dry-run") else contains in target)


def check(output, code):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line.startswith("|")][2:]
    wrong = []
    left = list(rows)
    for begin, contains in ROWS:
        row = next((r for r in left if match(r, begin, contains)), None)
        if row is None:
            wrong.append(f"no row '{begin} … {contains}'")
            continue
        left.remove(row)
        if row[3] == "not run" and begin.startswith(OPTIONAL):
            continue
        if not NUMBER.match(row[1]) or row[3] not in ("pass", "MISS"):
            wrong.append(f"no number: {row}")
    wrong += [f"a row that is not known: {row}" for row in left]
    expected = 1 if any(row[3] == "MISS" for row in rows) else 0
    if code != expected:
        wrong.append(f"exit code {code}, expected {expected}")
    return wrong


def main():
    p = argparse.ArgumentParser(allow_abbrev=False)
    p.add_argument("--binary", required=True)
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        svg = f"{folder}/growth.svg"
        run = subprocess.run(["sh", HERE.parents[1] / "scripts" / "bench.sh", "--quick", f"--svg={svg}", f"--bin={args.binary}", f"--work={folder}"],
                             capture_output=True, text=True)
        wrong = check(run.stdout, run.returncode)
        if not os.path.exists(svg):
            wrong.append("no SVG")
        elif sum(e.tag.endswith("circle") and len(e) == 1 for e in xml.etree.ElementTree.parse(svg).iter()) != 8:
            wrong.append("the SVG does not show two measures of two tools at two sizes")
        if os.listdir(folder) != ["growth.svg"][:os.path.exists(svg)]:
            wrong.append(f"left behind: {os.listdir(folder)}")
    for text in wrong:
        print(text)
    if wrong:
        print(run.stdout, run.stderr[-2000:], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
