#!/usr/bin/python3
"""Fails every call of the system that a conversion makes, once each, and kills it in the place of each call.

For a small conversion of each kind of container the calls are counted (preload.c); then, for every call and every error
that it can have, the program runs once more and is struck there. After each run:

  - the exit code is one that the README names, and on a failure standard error says why, with an id;
  - the input has the bytes and times that it had;
  - the output is not there, or is byte by byte that of an undisturbed run, and exit code 0 means that it is there;
  - unless the process was killed or could not remove what it had made, no hidden folder is left;
  - a run without a fault succeeds afterwards, with the bytes of an undisturbed run.

--every=N strikes only at every N-th call of those that are many (reads, opens, stats, closes).
"""
import argparse
import collections
import concurrent.futures
import errno
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXITS = {0, 1, 2, 3, 65, 69, 74, 75, 76, 77}
# What each call can fail with; EINTR must be taken up again, so that nothing is seen of it.
ERRORS = {
    "open": ["EIO", "EACCES", "EMFILE", "EINTR"],
    "read": ["EIO", "EINTR", "short"],
    "write": ["EIO", "ENOSPC", "EDQUOT", "EINTR", "short"],
    "sync": ["EIO", "ENOSPC", "EINTR"],
    "rename": ["EIO", "EACCES", "ENOSPC"],
    "mkdir": ["EIO", "EACCES", "ENOSPC"],
    "unlink": ["EIO", "EACCES"],
    "allocate": ["EIO", "ENOSPC", "EINTR"],
    "stat": ["EIO", "EACCES"],
    "list": ["EIO"],
    "lock": ["EIO", "EINTR"],
    "close": ["EIO"],
}
MANY = {"read", "open", "stat", "close", "list"}
EXIT_OF = {"ENOSPC": {76}, "EDQUOT": {76}, "EACCES": {77}}
KILLED = -9

# name: (fixture, options); one a container, and what replaces, undoes and packs
JOBS = {
    "shards": ("published-int4-g128-sharded", ["--target=transformers-4.x"]),
    "single": ("autogptq-0.7.1-int4-g32-asym-tied", ["--target=vllm", "--undo"]),
    "bin": ("autogptq-0.5.1-int4-g128-bin", ["--target=transformers-5.x"]),
    "gguf": ("published-int4-g128-sharded", ["--target=gguf"]),
    "force": ("resaved-transformers-5.23-int4-g128", ["--target=transformers-4.x", "--force"]),
}


def digests(folder):
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def state(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(folder.iterdir())}


class Job:
    def __init__(self, name, options):
        fixture, self.options = JOBS[name]
        self.name, self.binary, self.library = name, options.binary, options.library
        self.source = ROOT / "fixtures" / fixture / "checkpoint"
        self.old = {"old.txt": hashlib.sha256(b"old").hexdigest()}
        with tempfile.TemporaryDirectory(prefix="q2c-faults-") as folder:
            place = pathlib.Path(folder)
            self.prepare(place)
            done = self.run(place, count=place / "count")
            if done.returncode != 0:
                raise SystemExit(f"{name}: the undisturbed run failed: {done.stderr}")
            self.expected = digests(place / "out")
            self.counts = {line.split()[0]: int(line.split()[1]) for line in (place / "count").read_text().splitlines()}

    def prepare(self, place):
        shutil.copytree(self.source, place / "in", dirs_exist_ok=True)
        if "--force" in self.options:
            (place / "out").mkdir()
            (place / "out" / "old.txt").write_text("old")

    def run(self, place, fault=None, count=None):
        environment = dict(os.environ, LD_PRELOAD=str(self.library))
        if fault:
            environment["Q2C_FAULT"] = fault
        if count:
            environment["Q2C_COUNT"] = str(count)
        return subprocess.run([self.binary, "in", "out", *self.options, "--quiet", "--jobs=2"], cwd=place, env=environment, capture_output=True, text=True, timeout=120)

    def strike(self, call, at, what):
        """What is wrong after one run that was struck; nothing if all is well."""
        with tempfile.TemporaryDirectory(prefix="q2c-faults-") as folder:
            place = pathlib.Path(folder)
            self.prepare(place)
            before = state(place / "in")
            number = what if what in ("short", "kill") else str(getattr(errno, what))
            done = self.run(place, f"{call}:{at}:{number}")
            wrong = []
            if state(place / "in") != before:
                wrong.append("the input was changed")
            out = digests(place / "out") if (place / "out").exists() else None
            old = self.old if "--force" in self.options else None
            if what == "kill":
                if done.returncode != KILLED:
                    wrong.append(f"exit {done.returncode} instead of being killed")
                if out not in (old, None, self.expected):
                    wrong.append(f"half an output: {sorted(out)}")
            else:
                wrong += self.judge(done, call, what, out, old, place)
            again = self.run(place)
            # A whole output is not replaced unasked.
            due = 2 if out == self.expected and "--force" not in self.options else 0
            if again.returncode != due:
                wrong.append(f"the next run exits with {again.returncode}, expected {due}: {again.stderr.strip()}")
            elif digests(place / "out") != self.expected:
                wrong.append("the next run gives other bytes")
            if due == 0 and (left := [entry.name for entry in place.iterdir() if entry.name not in ("in", "out")]):
                wrong.append(f"the next run leaves {left}")
            return wrong

    def judge(self, done, call, what, out, old, place):
        wrong = []
        code, said = done.returncode, done.stderr.strip()
        if code not in EXITS:
            wrong.append(f"exit {code}: {said}")
        if what in ("EINTR", "short") and code != 0:
            wrong.append(f"not taken up again: exit {code}: {said}")
        if code == 0 and out != self.expected:
            wrong.append("exit 0 without the output of an undisturbed run")
        if code != 0 and out not in (old, self.expected):
            wrong.append(f"exit {code}, and half an output: {None if out is None else sorted(out)}")
        if code != 0 and not re.search(r"\[[a-z0-9-]+\]$", said):
            wrong.append(f"exit {code} without a message and an id: {said}")
        if code != 0 and what in EXIT_OF and code not in EXIT_OF[what] | {74}:
            wrong.append(f"{what} of {call} gives exit {code}: {said}")
        left = [entry.name for entry in place.iterdir() if entry.name not in ("in", "out")]
        if left and call not in ("unlink", "list", "open", "lock", "stat"):  # with which it would have cleaned up
            wrong.append(f"left behind: {left}")
        return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--library", type=pathlib.Path, required=True, help="preload.c, built")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of the calls that are many")
    parser.add_argument("--jobs", default=",".join(JOBS), help="comma-separated; default: all")
    options = parser.parse_args()
    options.binary, options.library = options.binary.resolve(), options.library.resolve()
    done, failed = collections.Counter(), 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name in options.jobs.split(","):
            job = Job(name, options)
            strikes = [(call, at, what) for call, errors in ERRORS.items() for at in range(1, job.counts[call] + 1) for what in errors if call not in MANY or at % options.every == 0]
            strikes += [(call, at, "kill") for call in ("write", "sync", "rename", "mkdir", "unlink", "allocate") for at in range(1, job.counts[call] + 1)]
            for (call, at, what), wrong in zip(strikes, pool.map(lambda strike: job.strike(*strike), strikes)):
                done["killed" if what == "kill" else "struck"] += 1
                failed += bool(wrong)
                for text in wrong:
                    print(f"FAILED {name}: {call} {at} {what}: {text}")
    print(f"{done['struck']} faults, {done['killed']} kills: {failed} failed")
    return 1 if failed or not done["struck"] else 0


if __name__ == "__main__":
    sys.exit(main())
