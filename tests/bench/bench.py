#!/usr/bin/python3
"""Time and memory of qwen2-convert beside a plain copy of the same folder.

A synthetic checkpoint (scripts/make_synthetic.py; 7B: 5.6 GB in two shards) is written to the work
folder. Then the jobs run in turn, A B C A B C ..., so that a slow minute of the machine hits all of
them; the table gives medians.

  cp             cp -r in out && sync. The bar. sync is the whole machine's: nothing else should write.
  convert        qwen2-convert in out --target=transformers-4.x --verify=... --quiet. It syncs its own
                 output, so nothing follows it. One row per --jobs and --verify value.
  cp, control    the same copy again, later in the round: its ratio shows the noise of the machine.
  naive python   naive_strip.py && sync, when --python can import safetensors; else not run.
  sha256sum      of all input files; reads only.

Before each timed run the previous output is removed, sync is called and the input is read once: no
job pays for another's dirty pages, and the input is in the cache (needs memory for twice the
checkpoint). Then 90 % of the free memory is touched (32 GiB at most), which may take longer than the
run itself. It is for virtual machines that give free pages back to their host, where the next one to
use them pays: identical copies of 5.6 GB took 2.5 to 7.4 s without it, and whichever came after an
idle moment looked slowest; with it, 2.8 to 3.9 s. The first round is not counted.

After each conversion, untimed, the output's headers are read: it must hold exactly the input's
tensors without the zero biases, so a tool that does nothing cannot win.

Targets, judged on these rows:
  time    convert with --verify=hash at the first --jobs value    <= 1.15 x cp (medians)
          the same with --verify=forward, the default             <= 3 x cp
  RSS     every convert row                                       <= 512 MiB
  growth  every convert row, its RSS minus that on the 0.5B shape <= 64 MiB (not with --shape=0.5B)

RSS is the child's own peak (wait4). A child starts as a copy of this process, so readings below
about 25 MiB mean nothing. Exit code: 0 all targets met, 1 a target missed or a job failed, 2 usage.
"""
import argparse
import glob
import json
import os
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CONTROL = "cp -r && sync, control"
TIME_LIMITS = {"hash": 1.15, "forward": 3}  # x cp, by --verify; forward is what a user gets who says nothing
ZERO_BIASES = tuple(f".{name}_proj.bias" for name in ("o", "gate", "up", "down"))


def talk(text):
    print(text, file=sys.stderr, flush=True)


def generate(folder, shape):
    subprocess.run(["/usr/bin/python3", f"{ROOT}/scripts/make_synthetic.py", folder, f"--shape={shape}"],
                   check=True, stdout=sys.stderr)


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


def quiesce(src, out):
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    buffer = bytearray(8 << 20)
    for name in os.listdir(src):
        with open(os.path.join(src, name), "rb", buffering=0) as f:
            while f.readinto(buffer):
                pass
    touch_memory()


def touch_memory():
    # In a child: the peak RSS of this process would count as that of every later one.
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    code = "import mmap as m, sys; m.mmap(-1, int(sys.argv[1]), m.MAP_PRIVATE | m.MAP_ANONYMOUS | m.MAP_POPULATE)"
    subprocess.run([sys.executable, "-c", code, str(min(free * 9 // 10, 32 << 30))], check=True)


def run(command):
    """(seconds, user CPU seconds, system CPU seconds, peak RSS in MiB)"""
    start = time.monotonic()
    pid = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True).pid
    try:
        _, status, usage = os.wait4(pid, 0)
    except BaseException:
        os.killpg(pid, signal.SIGKILL)  # interrupted: leave nothing behind that still writes
        raise
    seconds = time.monotonic() - start
    if status:
        raise RuntimeError(f"exit code {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    return seconds, usage.ru_utime, usage.ru_stime, usage.ru_maxrss / 1024


def convert_command(args, jobs, verify, src, out):
    extra = [] if jobs == "default" else [f"--jobs={jobs}"]
    return [args.bin, src, out, "--target=transformers-4.x", f"--verify={verify}", "--quiet", *extra]


def make_jobs(args, src, out):
    """row name -> command; None: not run"""
    copy = ["sh", "-c", 'cp -r "$1" "$2" && sync', "sh", src, out]
    jobs = {"cp -r && sync": copy}
    for verify in args.verify:
        for n in args.jobs:
            jobs[f"convert --verify={verify}, jobs {n}"] = convert_command(args, n, verify, src, out)
    jobs[CONTROL] = copy
    probe = subprocess.run([args.python, "-c", "import safetensors.numpy"], capture_output=True)
    jobs["naive python && sync"] = None if probe.returncode else [
        "sh", "-c", '"$1" "$2" "$3" "$4" && sync', "sh", args.python, f"{HERE}/naive_strip.py", src, out]
    jobs["sha256sum"] = ["sh", "-c", 'cd "$1" && sha256sum *', "sh", src]
    return jobs


def measure(args, work):
    src, out = f"{work}/in", f"{work}/out"
    small_rss = {}
    if args.shape != "0.5B":
        generate(src, "0.5B")
        for name, command in make_jobs(args, src, out).items():
            if name.startswith("convert"):
                quiesce(src, out)
                small_rss[name] = run(command)[3]
                check_stripped(src, out)
        shutil.rmtree(src)
        shutil.rmtree(out, ignore_errors=True)
    generate(src, args.shape)
    jobs = make_jobs(args, src, out)
    results = {name: [] for name, command in jobs.items() if command}
    for i in range(args.rounds + 1):
        for name in results:
            if name != "sha256sum":  # it only reads, and nothing is judged by it
                quiesce(src, out)
            result = run(jobs[name])
            if i > 0:
                results[name].append(result)
            talk(f"round {i or '0 (not counted)'}: {name}: {result[0]:.2f} s, "
                 f"CPU {result[1]:.2f} + {result[2]:.2f} s, load {os.getloadavg()[0]:.1f}")
            if name.startswith(("convert", "naive")):
                check_stripped(src, out)
    size = sum(os.path.getsize(os.path.join(src, f)) for f in os.listdir(src))
    return jobs, results, small_rss, size


def verdict(name, ratio, rss, small_rss, limits):
    """list of (text, met) for one convert row"""
    checks = [(f"RSS {rss:.0f} <= 512", rss <= 512)]
    if name in small_rss:
        growth = rss - small_rss[name]
        checks.append((f"growth {growth:.0f} <= 64", growth <= 64))
    if name in limits:
        checks.append((f"time {ratio:.2f} <= {limits[name]}", ratio <= limits[name]))
    return checks


def report(args, jobs, results, small_rss):
    """prints the table; True if all targets are met"""
    cp_seconds = [r[0] for r in results["cp -r && sync"]]
    cp, cp_best = statistics.median(cp_seconds), min(cp_seconds)
    limits = {f"convert --verify={verify}, jobs {args.jobs[0]}": limit for verify, limit in TIME_LIMITS.items()}
    all_met = True
    print("| job | median s | min–max | user + sys CPU s | ratio to cp | of minima | RSS MiB | targets |\n|---|---|---|---|---|---|---|---|")
    for name in jobs:
        if name not in results:
            print(f"| {name} | not run | | | | | | |")
            continue
        seconds, user, system, rss = zip(*results[name])
        median, peak = statistics.median(seconds), max(rss)
        checks = verdict(name, median / cp, peak, small_rss, limits) if name.startswith("convert") else []
        all_met = all_met and all(met for _, met in checks)
        marks = "; ".join(f"{text} {'pass' if met else 'MISS'}" for text, met in checks)
        print(f"| {name} | {median:.2f} | {min(seconds):.2f}–{max(seconds):.2f} | {statistics.median(user):.2f} + {statistics.median(system):.2f} "
              f"| {median / cp:.2f} | {min(seconds) / cp_best:.2f} | {peak:.0f} | {marks} |")
    control = statistics.median(r[0] for r in results[CONTROL]) / cp
    if not 0.9 < control < 1.1:
        print(f"\nNoisy: the control, the same job as cp, came out at {control:.2f}. Repeat on an idle machine.")
    for name in limits:
        if name not in results:
            print(f"\nThe time of '{name}' was not measured.")
            all_met = False
    return all_met


def comma_list(text):
    return text.split(",")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--shape", default="7B", help="as make_synthetic.py knows them (default 7B)")
    p.add_argument("--rounds", type=int, default=5, metavar="N")
    p.add_argument("--work", default=os.environ.get("TMPDIR", "/tmp"), metavar="DIR", help="folder on the disk to measure (default $TMPDIR or /tmp)")
    p.add_argument("--jobs", type=comma_list, default=["default"], metavar="LIST", help="e.g. default,1,2")
    p.add_argument("--verify", type=comma_list, default=list(TIME_LIMITS), metavar="LIST", help="e.g. hash,exact,none (default hash,forward)")
    p.add_argument("--bin", default=f"{ROOT}/build/bin/qwen2-convert", metavar="FILE")
    p.add_argument("--python", default="python3", metavar="FILE", help="interpreter for the naive strip")
    args = p.parse_args()
    args.bin = os.path.abspath(args.bin)
    if not os.access(args.bin, os.X_OK):
        p.error(f"'{args.bin}': no such program; build it or name it with --bin")
    if args.rounds < 1:
        p.error("argument --rounds: at least 1")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the work folder goes
    work = tempfile.mkdtemp(prefix="qwen2-bench-", dir=args.work)
    before = os.getloadavg()[0]
    try:
        jobs, results, small_rss, size = measure(args, work)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as e:
        talk(f"bench.py: error: {e}")
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    fs = subprocess.run(["df", "--output=fstype", args.work], capture_output=True, text=True).stdout.split()[-1]
    print(f"{args.shape}, {size / 1e9:.2f} GB, {args.rounds} interleaved rounds, medians; warm cache; {fs}; "
          f"{os.cpu_count()} cores; load {before:.1f} before, {os.getloadavg()[0]:.1f} after\n")
    return 0 if report(args, jobs, results, small_rss) else 1


if __name__ == "__main__":
    sys.exit(main())
