#!/usr/bin/python3
"""qwen2-audit --read-data against sha256sum over the same files, interleaved, warm cache.

    audit.py [--shape=1.5B] [--rounds=3] [--folder=DIR] [--bin=FILE]

Makes a synthetic checkpoint (scripts/make_synthetic.py) unless --folder names one. Prints seconds, memory and the ratio.
Target: at least 3 x the speed of sha256sum. Exit code: 0 met, 1 missed or a job failed, 2 usage.
"""
import argparse
import os
import sys

import measure

FACTOR = 3
READ_DATA = "qwen2-audit --read-data"


def time_audit(args, binary, folder):
    """row -> list of Run"""
    jobs = {"sha256sum": measure.sha256sum(folder), "qwen2-audit": [binary, folder], READ_DATA: [binary, folder, "--read-data"]}
    return measure.interleave(jobs, args.rounds, accepted=(0, 1))  # 1: findings; round 0 fills the cache


def factor(results, name):
    return measure.seconds(results["sha256sum"]) / measure.seconds(results[name])


def measure_audit(args, work):
    folder = args.folder
    if folder is None:
        folder = f"{work}/model"
        measure.generate(folder, args.shape)
    results = time_audit(args, args.bin, folder)
    print(f"{measure.size_of(folder) / 1e9:.2f} GB in {len(os.listdir(folder))} files, {args.rounds} rounds\n\n"
          "| run | median s | times the speed of sha256sum | MiB |\n|---|---|---|---|")
    for name, runs in results.items():
        print(f"| `{name}` | {measure.seconds(runs):.2f} | {factor(results, name):.2f} | {measure.peak(runs):.0f} |")
    return factor(results, READ_DATA) >= FACTOR


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    p.add_argument("--shape", default="1.5B")
    p.add_argument("--folder", metavar="DIR")
    measure.add_options(p, rounds=3)
    p.set_defaults(bin=f"{measure.ROOT}/build/bin/qwen2-audit")
    args = measure.parse(p)
    return measure.in_work_folder(args, lambda work: measure_audit(args, work))


if __name__ == "__main__":
    sys.exit(main())
