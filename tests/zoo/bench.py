#!/usr/bin/python3
"""Throughput of one and two workers on small models, and what a worker costs beside the conversions.

    bench.py --binary=PATH [--models=N] [--rounds=N]

Each round runs the same plan with one worker, two workers, and one worker again; outputs and journals are removed in
between. Prints wall time and processor time: on a machine that others use, only the latter is steady.
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import tempfile
import time


def cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=os.path.abspath, required=True)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="qwen2-zoo-bench-"))
    fixture = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "published-int4-g128-sharded" / "checkpoint"
    for number in range(options.models):
        shutil.copytree(fixture, folder / "zoo" / f"model-{number:04d}")
    plan = folder / "plan.jsonl"
    begun, used = time.monotonic(), cpu()
    plan.write_text(subprocess.run([options.binary, "plan", folder / "zoo", folder / "out", "--target=vllm", "--quiet", "--jobs=1"], check=True, capture_output=True, text=True).stdout)
    print(f"plan: {1e3 * (time.monotonic() - begun) / options.models:.2f} ms a model, {1e3 * (cpu() - used) / options.models:.2f} ms of processor")

    def once(workers):
        shutil.rmtree(folder / "out", ignore_errors=True)
        shutil.rmtree(f"{plan}.d", ignore_errors=True)
        begun, used = time.monotonic(), cpu()
        running = [subprocess.Popen([options.binary, "run", plan, "--jobs=1", "--quiet"]) for _ in range(workers)]
        assert all(worker.wait() == 0 for worker in running)
        seconds, processor = time.monotonic() - begun, cpu() - used
        status = json.loads(subprocess.run([options.binary, "status", plan, "--json"], check=True, capture_output=True, text=True).stdout)
        assert status["done"] == options.models
        overhead = 1e3 * (workers * seconds - status["job_seconds"]) / options.models
        print(f"{workers} worker{'s' if workers > 1 else ' '}: {seconds:.2f} s, processor {processor:.2f} s, conversions {status['job_seconds']:.2f} s; beside them {overhead:.2f} ms a model; load {os.getloadavg()[0]:.1f}", flush=True)
        return seconds, processor, overhead

    rounds = [(once(1), once(2), once(1)) for _ in range(options.rounds)]
    print(f"1 -> 2 workers: {statistics.median(min(a[0], c[0]) / b[0] for a, b, c in rounds):.2f} times as fast; processor time of two workers {statistics.median(b[1] / min(a[1], c[1]) for a, b, c in rounds):.2f} of one's; "
          f"beside the conversions {statistics.median(min(a[2], c[2]) for a, b, c in rounds):.2f} ms a model")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
