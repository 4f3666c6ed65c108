"""What every bench here shares: checkpoints, timed runs in turn, medians.

Before each timed run the previous output is removed, sync is called and the input is read once: no
job pays for another's dirty pages, and the input is in the cache (needs memory for twice the
checkpoint). Then 90 % of the free memory is touched (32 GiB at most), which may take longer than the
run itself. It is for virtual machines that give free pages back to their host, where the next one to
use them pays: identical copies of 5.6 GB took 2.5 to 7.4 s without it, and whichever came after an
idle moment looked slowest; with it, 2.8 to 3.9 s.

The jobs run in turn, A B C A B C ..., so that a slow minute of the machine hits all of them. The
first round is not counted.

RSS is the child's own peak (wait4). A child starts as a copy of this process, so readings below
about 25 MiB mean nothing.
"""
import collections
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COPY, CONTROL = "cp -r && sync", "cp -r && sync, control"
RSS_LIMIT = 512  # MiB, everywhere

Run = collections.namedtuple("Run", "seconds user system rss")  # rss in MiB


def talk(text):
    print(text, file=sys.stderr, flush=True)


def generate(folder, shape, *options):
    subprocess.run(["/usr/bin/python3", f"{ROOT}/scripts/make_synthetic.py", folder, f"--shape={shape}", *options],
                   check=True, stdout=sys.stderr)


def size_of(folder):
    return sum(entry.stat().st_size for entry in os.scandir(folder))


def quiesce(src, out, touch):
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    buffer = bytearray(8 << 20)
    for name in os.listdir(src):
        with open(os.path.join(src, name), "rb", buffering=0) as f:
            while f.readinto(buffer):
                pass
    if touch:
        touch_memory()


def touch_memory():
    # In a child: the peak RSS of this process would count as that of every later one.
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    code = "import mmap as m, sys; m.mmap(-1, int(sys.argv[1]), m.MAP_PRIVATE | m.MAP_ANONYMOUS | m.MAP_POPULATE)"
    subprocess.run([sys.executable, "-c", code, str(min(free * 9 // 10, 32 << 30))], check=True)


def run(command, accepted=(0,)):
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # interrupted: leave nothing behind that still writes
        raise
    seconds = time.monotonic() - start
    # Said to the object, too: one that is dropped without a code takes the status of a child that has ended by then.
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accepted:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
    return Run(seconds, usage.ru_utime, usage.ru_stime, usage.ru_maxrss / 1024)


def interleave(jobs, rounds, before=lambda name: None, after=lambda name: None, accepted=(0,)):
    """name -> command, run in turn; name -> list of Run"""
    results = {name: [] for name in jobs}
    for i in range(rounds + 1):
        for name, command in jobs.items():
            before(name)
            result = run(command, accepted)
            after(name)
            if i > 0:
                results[name].append(result)
            talk(f"round {i or '0 (not counted)'}: {name}: {result.seconds:.2f} s, "
                 f"CPU {result.user:.2f} + {result.system:.2f} s, load {os.getloadavg()[0]:.1f}")
    return results


def seconds(runs):
    return statistics.median(r.seconds for r in runs)


def peak(runs):
    return max(r.rss for r in runs)


def copy(src, out):
    # sync is the whole machine's: nothing else should write.
    return ["sh", "-c", 'cp -r "$1" "$2" && sync', "sh", src, out]


def convert(binary, src, out, target, verify="hash", *extra):
    """qwen2-convert syncs its own output, so nothing follows it."""
    return [binary, src, out, f"--target={target}", f"--verify={verify}", "--quiet", *extra]


def sha256sum(src):
    return ["sh", "-c", 'cd "$1" && sha256sum *', "sh", src]


HEAD = "| job | median s | min–max | user + sys CPU s | ratio to cp | of minima | RSS MiB | targets |\n|---|---|---|---|---|---|---|---|"


def row(name, runs, base, checks):
    """One line under HEAD; checks: list of (text, met)."""
    times = [r.seconds for r in runs]
    user, system = statistics.median(r.user for r in runs), statistics.median(r.system for r in runs)
    marks = "; ".join(f"{text} {'pass' if met else 'MISS'}" for text, met in checks)
    return (f"| {name} | {seconds(runs):.2f} | {min(times):.2f}–{max(times):.2f} | {user:.2f} + {system:.2f} | {seconds(runs) / seconds(base):.2f} "
            f"| {min(times) / min(r.seconds for r in base):.2f} | {peak(runs):.0f} | {marks} |")


def comma_list(text):
    return text.split(",")


def add_options(parser, rounds):
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help=f"default {rounds}")
    parser.add_argument("--work", default=os.environ.get("TMPDIR", "/tmp"), metavar="DIR", help="folder on the disk to measure (default $TMPDIR or /tmp)")
    parser.add_argument("--no-touch", dest="touch", action="store_false", help="leave the free memory alone: for machines that others use; noisier")
    parser.add_argument("--bin", default=f"{ROOT}/build/bin/qwen2-convert", metavar="FILE")


def parse(parser):
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("argument --rounds: at least 1")
    args.bin = os.path.abspath(args.bin)
    if not os.access(args.bin, os.X_OK):
        parser.error(f"'{args.bin}': no such program; build it or name it with --bin")
    return args


def in_work_folder(args, measure):
    """Runs measure(folder), which says whether all targets were met, and gives the exit code: 0, or 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the work folder goes
    work = tempfile.mkdtemp(prefix="qwen2-bench-", dir=args.work)
    try:
        return 0 if measure(work) else 1
    except (RuntimeError, OSError, subprocess.CalledProcessError) as e:
        talk(f"error: {e}")
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
