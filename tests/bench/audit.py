#!/usr/bin/python3
"""qwen2-audit --read-data against sha256sum over the same files, interleaved, warm cache.

    audit.py [--shape=7B] [--rounds=3] [--folder=DIR] [--audit=FILE]

Makes a synthetic checkpoint (scripts/make_synthetic.py) unless --folder names one. Prints seconds, memory and the ratio.
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

PROJECT = pathlib.Path(__file__).resolve().parents[2]


def timed(command):
    """(seconds, peak MiB) of one run."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0 and os.waitstatus_to_exitcode(status) not in (0, 1):
        sys.exit(f"audit.py: {command[0]}: {process.stderr.read().decode()[:300]}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--shape", default="1.5B")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--audit", type=pathlib.Path, default=PROJECT / "build" / "bin" / "qwen2-audit")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qwen2-audit-bench-") as scratch:
        folder = arguments.folder
        if folder is None:
            folder = pathlib.Path(scratch) / "model"
            subprocess.run([sys.executable, PROJECT / "scripts" / "make_synthetic.py", folder, f"--shape={arguments.shape}"], check=True)
        files = sorted(path for path in folder.iterdir() if path.is_file())
        total = sum(path.stat().st_size for path in files)
        jobs = {"sha256sum": ["sha256sum", *files], "qwen2-audit": [arguments.audit, folder], "qwen2-audit --read-data": [arguments.audit, folder, "--read-data"]}
        timed(jobs["sha256sum"])  # fills the cache
        seconds = {name: [] for name in jobs}
        memory = dict.fromkeys(jobs, 0)
        for _ in range(arguments.rounds):
            for name, command in jobs.items():
                took, mib = timed(command)
                seconds[name].append(took)
                memory[name] = max(memory[name], mib)
        base = statistics.median(seconds["sha256sum"])
        print(f"{total / 1e9:.2f} GB in {len(files)} files, {arguments.rounds} rounds\n\n| run | median s | times the speed of sha256sum | MiB |\n|---|---|---|---|")
        for name in jobs:
            took = statistics.median(seconds[name])
            print(f"| `{name}` | {took:.2f} | {base / took:.2f} | {memory[name]:.0f} |")


main()
