#!/usr/bin/python3
"""Every target of speed and memory in one table: what was measured, the limit, pass or MISS.

Each group of targets is one function (GROUPS); medians, and what is compared runs in turn in the same
rounds. measure.py says how each run is prepared. strip.py, repack.py and audit.py show the same in detail.

  strip    --verify=hash and the default verification beside cp, at --shape (7B)
  repack   GPTQ to compressed-tensors, AWQ, MLX and GGUF beside cp, at --shape (1.5B)
  bin      a torch ZIP to safetensors beside cp, at --shape (1.5B)
  audit    qwen2-audit --read-data beside sha256sum, at both shapes
  startup  --dry-run at --shape (7B), median of 11
  plan     --dry-run of models with 41,523 and 146,361 tensors, time and memory. Their codes and scales are
           holes in the files. 235B-names has the names of 235B-moe and the smallest sizes: headers only.
  jobs     --jobs=2 beside --jobs=1, written to memory (/dev/shm), at --shape (7B)
  growth   strip and mlx from 0.5B to 7B and two layers of 72B, all in shards of 400 MB, so that no size has
           fewer files to hash side by side than another; --svg=FILE draws it
  peers    ours beside the Python tools that do the same, with --peers=DIR

Exit code: 0 no target missed, 1 one missed or a job failed, 2 usage. What was not run is no miss; the table says why.
"""
import argparse
import collections
import os
import shutil
import subprocess
import sys
import tempfile

import audit
import growth_svg
import measure
import repack
import strip
from measure import CONTROL, COPY, RSS_LIMIT

# value None: not run, or failed; text says why
Row = collections.namedtuple("Row", "target value relation limit unit text missed", defaults=("", False))

TMPFS = "/dev/shm"
STRIP, MLX = "transformers-4.x", "mlx"
# shape, quick shape, options of make_synthetic.py, seconds, targets. mlx refuses Qwen3-MoE.
PLANS = (
    ("72B-moe", "tiny-qwen2-moe", ["--sparse"], 0.5, (STRIP, MLX)),
    ("235B-names", "tiny-qwen3-moe", ["--sparse"], 2, (STRIP, "compressed-tensors")),
    ("235B-moe", "tiny-qwen3-moe", ["--sparse"], 2, (STRIP, "compressed-tensors")),
)
STARTUP_SECONDS, STARTUP_RUNS = 0.05, 11
JOBS_FACTOR = 1.7
JOBS = {"mlx, --verify=hash": (MLX, "hash"), "strip, --verify=forward": (STRIP, "forward")}
GROWTH = [(shape, shape, ["--shard-size=400MB"]) for shape in ("0.5B", "1.5B", "7B", "72B-layer")]
GROWTH_QUICK = [(f"tiny {bits} bits", "tiny", [f"--bits={bits}"]) for bits in (4, 8)]
LINE_LIMIT = 0.25  # of the line through the origin; the noise of two equal copies is up to 0.1


class Bench:
    def __init__(self, args, work):
        self.args, self.out, self.work = args, f"{work}/out", work
        self.models, self.rss, self.controls = {}, [], []

    def big(self):
        return self.args.shape or ("tiny" if self.args.quick else "7B")

    def small(self):
        return self.args.shape or ("tiny" if self.args.quick else "1.5B")

    def model(self, shape, *options):
        """The folder of a synthetic checkpoint, made when it is first asked for."""
        key = (shape, *options)
        if key not in self.models:
            folder = f"{self.work}/{len(self.models)}"
            measure.generate(folder, shape, *options)
            self.models[key] = folder
        return self.models[key]

    def note_memory(self, results, what):
        self.rss += [(measure.peak(runs), f"{what}: {name}") for name, runs in results.items() if not name.startswith(("cp ", "sha256sum"))]

    def note_control(self, results, what):
        self.controls.append((what, measure.seconds(results[CONTROL]) / measure.seconds(results[COPY])))

    def dry_runs(self, shape, options, targets, rounds):
        """name -> list of Run: the plan as text for each target, and as JSON for the first"""
        src = self.model(shape, *options)
        jobs = {f"--target={target}": [self.args.bin, src, self.out, f"--target={target}", "--dry-run"] for target in targets}
        first = next(iter(jobs))
        jobs[f"{first} --json"] = [*jobs[first], "--json"]
        return measure.interleave(jobs, rounds)  # round 0 brings what a plan reads into the cache


def ratio(target, results, name, base, limit):
    return Row(target, measure.seconds(results[name]) / measure.seconds(results[base]), "<=", limit, "x cp")


def strip_rows(bench):
    args, src = bench.args, bench.model(bench.big())
    options = argparse.Namespace(**vars(args), jobs=["default"], verify=list(strip.TIME_LIMITS), python="python3")
    jobs = {name: command for name, command in strip.make_jobs(options, src, bench.out).items() if name.startswith(("cp", "convert"))}
    results = strip.time_jobs(options, jobs, src, bench.out)
    bench.note_memory(results, f"strip {bench.big()}")
    bench.note_control(results, "strip")
    for verify, limit in strip.TIME_LIMITS.items():
        yield ratio(f"strip {bench.big()}, --verify={verify}", results, strip.row_name(verify, "default"), COPY, limit)


def repack_rows(bench):
    results = repack.time_repacks(bench.args, bench.model(bench.small()), bench.out, repack.TARGETS)
    bench.note_memory(results, f"repack {bench.small()}")
    bench.note_control(results, "repack")
    for target in repack.TARGETS:
        yield ratio(f"GPTQ -> {target} {bench.small()}, --verify=hash", results, target, COPY, repack.REPACK_LIMIT)


def bin_rows(bench):
    results = repack.time_repacks(bench.args, bench.model(bench.small(), "--container=bin"), bench.out, [STRIP])
    bench.note_memory(results, f".bin {bench.small()}")
    bench.note_control(results, ".bin")
    yield ratio(f".bin -> safetensors {bench.small()}, --verify=hash", results, STRIP, COPY, repack.REPACK_LIMIT)


def audit_rows(bench):
    for shape in dict.fromkeys((bench.big(), bench.small())):
        results = audit.time_audit(bench.args, f"{os.path.dirname(bench.args.bin)}/qwen2-audit", bench.model(shape))
        bench.note_memory(results, f"audit {shape}")
        yield Row(f"qwen2-audit --read-data {shape}", audit.factor(results, audit.READ_DATA), ">=", audit.FACTOR, "x sha256sum")


def plan_seconds(shape, results, limit):
    return [Row(f"plan {shape}: --dry-run {name}", measure.seconds(runs), "<=", limit, "s") for name, runs in results.items()]


def startup_rows(bench):
    rounds = bench.args.rounds if bench.args.quick else STARTUP_RUNS
    results = bench.dry_runs(bench.big(), [], (STRIP, MLX), rounds)
    bench.note_memory(results, f"plan {bench.big()}")
    yield from plan_seconds(bench.big(), results, STARTUP_SECONDS)


def plan_rows(bench):
    for full_shape, quick_shape, options, limit, targets in PLANS:
        shape = quick_shape if bench.args.quick else full_shape
        results = bench.dry_runs(shape, options, targets, bench.args.rounds)
        bench.note_memory(results, f"plan {shape}")
        yield from plan_seconds(shape, results, limit)
        yield Row(f"plan {shape}: memory", max(map(measure.peak, results.values())), "<=", RSS_LIMIT, "MiB")


def no_room(size):
    """why the output cannot be held in memory beside the cached input, or nothing"""
    if not os.path.isdir(TMPFS):
        return f"no {TMPFS}"
    with open("/proc/meminfo") as f:
        available = next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable:"))
    room = min(shutil.disk_usage(TMPFS).free, available - size)
    return f"room for {room / 1e9:.1f} GB in memory" if room < 1.2 * size + (1 << 30) else ""


def jobs_rows(bench):
    src = bench.model(bench.big())
    why = "one core" if os.cpu_count() < 2 else no_room(measure.size_of(src))
    if why:
        yield from (Row(f"--jobs=2, {what}", None, ">=", JOBS_FACTOR, "x --jobs=1", why) for what in JOBS)
        return
    with tempfile.TemporaryDirectory(prefix="qwen2-bench-", dir=TMPFS) as folder:
        out = f"{folder}/out"
        jobs = {(what, n): measure.convert(bench.args.bin, src, out, target, verify, f"--jobs={n}") for what, (target, verify) in JOBS.items() for n in (1, 2)}
        named = {f"{what}, --jobs={n}": command for (what, n), command in jobs.items()}
        # Touched memory would be the room that the output needs.
        results = measure.interleave(named, bench.args.rounds, lambda _: measure.quiesce(src, out, touch=False))
    bench.note_memory(results, f"jobs {bench.big()}")
    for what in JOBS:
        one, two = (measure.seconds(results[f"{what}, --jobs={n}"]) for n in (1, 2))
        yield Row(f"--jobs=2 {bench.big()}, {what}, in memory", one / two, ">=", JOBS_FACTOR, "x --jobs=1")


def growth_rows(bench):
    models = {label: bench.model(shape, *options) for label, shape, options in (GROWTH_QUICK if bench.args.quick else GROWTH)}
    kinds = {"strip": STRIP, "mlx": MLX}
    jobs = {f"{kind} {label}": measure.convert(bench.args.bin, src, bench.out, target) for label, src in models.items() for kind, target in kinds.items()}
    sources = {f"{kind} {label}": src for label, src in models.items() for kind in kinds}
    results = measure.interleave(jobs, bench.args.rounds, lambda name: measure.quiesce(sources[name], bench.out, bench.args.touch))
    bench.note_memory(results, "growth")
    series = {kind: [growth_svg.Point(label, measure.size_of(src) / 1e9, measure.seconds(results[f"{kind} {label}"]), measure.peak(results[f"{kind} {label}"]))
                     for label, src in models.items()] for kind in kinds}
    for kind, points in series.items():
        slope = growth_svg.slope(points)
        farthest = max(abs(p.seconds / (slope * p.gigabytes) - 1) for p in points)
        yield Row(f"growth, {kind}: time, farthest from the line through 0 ({slope:.2f} s/GB)", 100 * farthest, "<=", 100 * LINE_LIMIT, "%")
        yield Row(f"growth, {kind}: memory, largest minus smallest model", max(p.rss for p in points) - min(p.rss for p in points), "<=", strip.GROWTH_LIMIT, "MiB")
    if bench.args.svg:
        growth_svg.draw(bench.args.svg, series)


def peer_rows(bench):
    if not bench.args.peers:
        yield from (Row(f"{what} beside {peer}", None, ">=", repack.PEER_FACTOR, "times as fast", "no --peers") for what, peer in repack.PEERS.items())
        return
    for what, ours, theirs in repack.time_peers(bench.args, bench.model(bench.small()), bench.out, f"{bench.work}/awq"):
        bench.note_memory({what: ours}, f"peers {bench.small()}")
        yield Row(f"{what} {bench.small()} beside {repack.PEERS[what]}", measure.seconds(theirs) / measure.seconds(ours), ">=", repack.PEER_FACTOR, "times as fast")


GROUPS = {
    "strip": strip_rows, "repack": repack_rows, "bin": bin_rows, "audit": audit_rows, "startup": startup_rows,
    "plan": plan_rows, "jobs": jobs_rows, "growth": growth_rows, "peers": peer_rows}


def rows_of(name, bench):
    rows = []
    try:
        for row in GROUPS[name](bench):
            rows.append(row)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as e:
        rows.append(Row(name, None, "", "", "", f"failed: {e}", True))
    shutil.rmtree(bench.out, ignore_errors=True)
    return rows


def verdict(row):
    if row.value is None:
        return "MISS" if row.missed else "not run"
    return "pass" if (row.value <= row.limit if row.relation == "<=" else row.value >= row.limit) else "MISS"


def digits(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def line(row):
    measured = row.text if row.value is None else f"{digits(row.value)} {row.unit}"
    limit = f"{row.relation} {row.limit:g} {row.unit}" if row.relation else ""
    return f"| {row.target} | {measured} | {limit} | {verdict(row)} |"


def measure_targets(args, work):
    before = os.getloadavg()[0]
    bench = Bench(args, work)
    rows = [row for name in args.only for row in rows_of(name, bench)]
    if bench.rss:
        rss, where = max(bench.rss)
        rows.append(Row(f"memory of every run, the most ({where})", rss, "<=", RSS_LIMIT, "MiB"))
    fs = subprocess.run(["df", "--output=fstype", args.work], capture_output=True, text=True).stdout.split()[-1]
    if args.quick:
        print("--quick: this shows that the bench works; none of the numbers means anything.\n")
    print(f"Medians of {args.rounds} interleaved rounds; warm cache; {fs}; {os.cpu_count()} cores; load {before:.1f} before, {os.getloadavg()[0]:.1f} after\n")
    print("| target | measured | limit | |\n|---|---|---|---|")
    for row in rows:
        print(line(row))
    verdicts = collections.Counter(map(verdict, rows))
    print(f"\n{verdicts['pass']} pass, {verdicts['MISS']} MISS, {verdicts['not run']} not run")
    for what, control in bench.controls:
        noisy = "" if 0.9 < control < 1.1 else ": noisy, repeat on an idle machine"
        print(f"The control of {what}, the same copy again: {control:.2f} x cp{noisy}")
    return verdicts["MISS"] == 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--only", type=measure.comma_list, default=list(GROUPS), metavar="LIST", help="groups, such as strip,plan")
    p.add_argument("--shape", help="for every group but plan and growth, instead of 7B and 1.5B")
    p.add_argument("--quick", action="store_true", help="tiny shapes, one round: shows that the bench works, measures nothing")
    p.add_argument("--svg", metavar="FILE", help="where to draw the growth")
    p.add_argument("--peers", metavar="DIR", help="the stacks of scripts/interop.sh")
    measure.add_options(p, rounds=3)
    args = measure.parse(p)
    if unknown := set(args.only) - set(GROUPS):
        p.error(f"argument --only: no group '{unknown.pop()}'; there are {', '.join(GROUPS)}")
    if args.quick:
        args.touch, args.rounds = False, 1
    return measure.in_work_folder(args, lambda work: measure_targets(args, work))


if __name__ == "__main__":
    sys.exit(main())
