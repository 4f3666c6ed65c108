#!/usr/bin/python3
"""Time and memory of qwen2-convert beside a plain copy of the same folder.

A synthetic checkpoint (scripts/make_synthetic.py; 7B: 5.6 GB in two shards) is written to the work
folder. Then the jobs run in turn (measure.py says how each run is prepared); the table gives medians.

  cp             cp -r in out && sync. The bar.
  convert        qwen2-convert in out --target=transformers-4.x --verify=... --quiet. One row per
                 --jobs and --verify value.
  cp, control    the same copy again, later in the round: its ratio shows the noise of the machine.
  naive python   naive_strip.py && sync, when --python can import safetensors; else not run.
  sha256sum      of all input files; reads only.

After each conversion, untimed, the output's headers are read: it must hold exactly the input's
tensors without the zero biases, so a tool that does nothing cannot win.

Targets, judged on these rows:
  time    convert with --verify=hash at the first --jobs value    <= 1.15 x cp (medians)
          the same with --verify=forward, the default             <= 3 x cp
  RSS     every convert row                                       <= 512 MiB
  growth  every convert row, its RSS minus that on the 0.5B shape <= 64 MiB (not with --shape=0.5B)

Exit code: 0 all targets met, 1 a target missed or a job failed, 2 usage.
"""
import argparse
import glob
import json
import os
import shutil
import struct
import subprocess
import sys

import measure
from measure import CONTROL, COPY, RSS_LIMIT

TIME_LIMITS = {"hash": 1.15, "forward": 3}  # x cp, by --verify; forward is what a user gets who says nothing
GROWTH_LIMIT = 64  # MiB
ZERO_BIASES = tuple(f".{name}_proj.bias" for name in ("o", "gate", "up", "down"))


def tensors_of(folder):
    found = {}
    for path in glob.glob(folder + "/*.safetensors"):
        with open(path, "rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        header.pop("__metadata__", None)
        found.update({name: (t["dtype"], t["shape"]) for name, t in header.items()})
    return found


def check_stripped(src, out):
    expected = {name: t for name, t in tensors_of(src).items() if not name.endswith(ZERO_BIASES)}
    if tensors_of(out) != expected:
        raise RuntimeError(f"'{out}': not the input's tensors without the zero biases")


def row_name(verify, jobs):
    return f"convert --verify={verify}, jobs {jobs}"


def make_jobs(args, src, out):
    """row name -> command; None: not run"""
    jobs = {COPY: measure.copy(src, out)}
    for verify in args.verify:
        for n in args.jobs:
            extra = [] if n == "default" else [f"--jobs={n}"]
            jobs[row_name(verify, n)] = measure.convert(args.bin, src, out, "transformers-4.x", verify, *extra)
    jobs[CONTROL] = measure.copy(src, out)
    probe = subprocess.run([args.python, "-c", "import safetensors.numpy"], capture_output=True)
    jobs["naive python && sync"] = None if probe.returncode else [
        "sh", "-c", '"$1" "$2" "$3" "$4" && sync', "sh", args.python, f"{measure.ROOT}/tests/bench/naive_strip.py", src, out]
    jobs["sha256sum"] = measure.sha256sum(src)
    return jobs


def on_small_shape(args, src, out):
    """RSS of every convert row on the 0.5B shape"""
    measure.generate(src, "0.5B")
    rss = {}
    for name, command in make_jobs(args, src, out).items():
        if name.startswith("convert"):
            measure.quiesce(src, out, args.touch)
            rss[name] = measure.run(command).rss
            check_stripped(src, out)
    shutil.rmtree(src)
    shutil.rmtree(out, ignore_errors=True)
    return rss


def time_jobs(args, jobs, src, out):
    def before(name):
        if name != "sha256sum":  # it only reads, and nothing is judged by it
            measure.quiesce(src, out, args.touch)

    def after(name):
        if name.startswith(("convert", "naive")):
            check_stripped(src, out)
    return measure.interleave({name: command for name, command in jobs.items() if command}, args.rounds, before, after)


def verdict(name, ratio, rss, small_rss, limits):
    """list of (text, met) for one convert row"""
    checks = [(f"RSS {rss:.0f} <= {RSS_LIMIT}", rss <= RSS_LIMIT)]
    if name in small_rss:
        growth = rss - small_rss[name]
        checks.append((f"growth {growth:.0f} <= {GROWTH_LIMIT}", growth <= GROWTH_LIMIT))
    if name in limits:
        checks.append((f"time {ratio:.2f} <= {limits[name]}", ratio <= limits[name]))
    return checks


def report(args, jobs, results, small_rss):
    """prints the table; True if all targets are met"""
    base = results[COPY]
    limits = {row_name(verify, args.jobs[0]): limit for verify, limit in TIME_LIMITS.items()}
    all_met = True
    print(measure.HEAD)
    for name in jobs:
        if name not in results:
            print(f"| {name} | not run | | | | | | |")
            continue
        runs = results[name]
        checks = verdict(name, measure.seconds(runs) / measure.seconds(base), measure.peak(runs), small_rss, limits) if name.startswith("convert") else []
        all_met = all_met and all(met for _, met in checks)
        print(measure.row(name, runs, base, checks))
    control = measure.seconds(results[CONTROL]) / measure.seconds(base)
    if not 0.9 < control < 1.1:
        print(f"\nNoisy: the control, the same job as cp, came out at {control:.2f}. Repeat on an idle machine.")
    for name in limits:
        if name not in results:
            print(f"\nThe time of '{name}' was not measured.")
            all_met = False
    return all_met


def measure_strip(args, work):
    src, out = f"{work}/in", f"{work}/out"
    before = os.getloadavg()[0]
    small_rss = {} if args.shape == "0.5B" else on_small_shape(args, src, out)
    measure.generate(src, args.shape)
    jobs = make_jobs(args, src, out)
    results = time_jobs(args, jobs, src, out)
    fs = subprocess.run(["df", "--output=fstype", args.work], capture_output=True, text=True).stdout.split()[-1]
    print(f"{args.shape}, {measure.size_of(src) / 1e9:.2f} GB, {args.rounds} interleaved rounds, medians; warm cache; {fs}; "
          f"{os.cpu_count()} cores; load {before:.1f} before, {os.getloadavg()[0]:.1f} after\n")
    return report(args, jobs, results, small_rss)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--shape", default="7B", help="as make_synthetic.py knows them (default 7B)")
    p.add_argument("--jobs", type=measure.comma_list, default=["default"], metavar="LIST", help="e.g. default,1,2")
    p.add_argument("--verify", type=measure.comma_list, default=list(TIME_LIMITS), metavar="LIST", help="e.g. hash,exact,none (default hash,forward)")
    p.add_argument("--python", default="python3", metavar="FILE", help="interpreter for the naive strip")
    measure.add_options(p, rounds=5)
    args = measure.parse(p)
    return measure.in_work_folder(args, lambda work: measure_strip(args, work))


if __name__ == "__main__":
    sys.exit(main())
