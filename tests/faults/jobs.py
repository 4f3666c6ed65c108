"""The small jobs that are struck: what lies there before, the command, and what must come of it."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXITS = {0, 1, 2, 3, 65, 69, 74, 75, 76, 77}
FAILURE = re.compile(r"\[[a-z0-9]+(-[a-z0-9]+)*\]$")

# name: (fixture, options); one a container, and what replaces, undoes and packs
CONVERSIONS = {
    "shards": ("published-int4-g128-sharded", ["--target=transformers-4.x"]),
    "single": ("autogptq-0.7.1-int4-g32-asym-tied", ["--target=vllm", "--undo"]),
    "bin": ("autogptq-0.5.1-int4-g128-bin", ["--target=transformers-5.x"]),
    "gguf": ("published-int4-g128-sharded", ["--target=gguf"]),
    "force": ("resaved-transformers-5.23-int4-g128", ["--target=transformers-4.x", "--force"]),
}
COMMON = ["--quiet", "--jobs=2"]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder):
    """{path below: SHA-256} of all files; nothing if there is no folder."""
    return {path.relative_to(folder).as_posix(): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()} if folder.exists() else None


def state(folder):
    """Content and times of all files."""
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size, digest(path)) for path in sorted(folder.rglob("*")) if path.is_file()}


def place_for(prefix="q2c-faults-", folder=None):
    return tempfile.TemporaryDirectory(prefix=prefix, dir=folder)


class Job:
    """in/ -> out/, both in one place. `old`: what out/ holds before."""
    old = None
    beside = {"in", "out"}

    def __init__(self, name, options):
        self.name, self.options = name, options
        with place_for() as folder:
            place = pathlib.Path(folder)
            self.prepare(place)
            done = self.run(place, {"Q2C_COUNT": str(place / "count")})
            if done.returncode != 0:
                raise SystemExit(f"{name}: the undisturbed run failed: {done.stderr}")
            self.expected = digests(place / "out")
            self.counts = {line.split()[0]: int(line.split()[1]) for line in (place / "count").read_text().splitlines()}

    def environment(self, settings):
        return dict(os.environ, LD_PRELOAD=str(self.options.library), **(settings or {}))

    def run(self, place, settings=None):
        """In a session of its own, so that a kill of the group ends the job alone."""
        return subprocess.run(self.command(), cwd=place, env=self.environment(settings), capture_output=True, text=True, timeout=120, start_new_session=True)

    def is_whole(self, out):
        """Is this what may lie in out/ at any moment?"""
        return out in (self.old, self.expected)

    def left(self, place):
        return [entry.name for entry in place.iterdir() if entry.name not in self.beside]

    def check_again(self, place):
        """A run without a fault must succeed now, with the bytes of one that never was disturbed."""
        out = digests(place / "out")
        due = 2 if self.refuses_whole and out == self.expected else 0
        again = self.run(place)
        if again.returncode != due:
            return [f"the next run exits with {again.returncode}, expected {due}: {again.stderr.strip()}"]
        wrong = [] if digests(place / "out") == self.expected else ["the next run gives other bytes"]
        if due == 0 and (left := self.left(place)):
            wrong.append(f"the next run leaves {left}")
        return wrong


class Conversion(Job):
    def __init__(self, name, options):
        fixture, self.arguments = CONVERSIONS[name]
        self.source = ROOT / "fixtures" / fixture / "checkpoint"
        self.refuses_whole = "--force" not in self.arguments
        if not self.refuses_whole:
            self.old = {"old.txt": hashlib.sha256(b"old").hexdigest()}
        super().__init__(name, options)

    def prepare(self, place):
        shutil.copytree(self.source, place / "in")
        if self.old:
            (place / "out").mkdir()
            (place / "out" / "old.txt").write_text("old")

    def command(self):
        return [self.options.convert, "in", "out", *self.arguments, *COMMON]


class Restoring(Job):
    """Undoes a conversion, which lies in in/."""
    refuses_whole = True

    def __init__(self, name, options):
        fixture, arguments = CONVERSIONS["single"]
        self.original = digests(ROOT / "fixtures" / fixture / "checkpoint")
        with place_for() as folder:
            made = pathlib.Path(folder) / "made"
            subprocess.run([options.convert, ROOT / "fixtures" / fixture / "checkpoint", made, *arguments, *COMMON], check=True)
            self.files = {path.name: path.read_bytes() for path in made.iterdir()}
        super().__init__(name, options)
        if self.expected != self.original:
            raise SystemExit("restore: the original did not come back")

    def prepare(self, place):
        (place / "in").mkdir()
        for name, content in self.files.items():
            (place / "in" / name).write_bytes(content)

    def command(self):
        return [self.options.convert, "--restore", "in", "out", *COMMON]


class Zoo(Job):
    """Two models through one worker, which forks for each."""
    beside = {"in", "out", "plan.jsonl", "plan.jsonl.d"}
    refuses_whole = False
    models = ("published-int8-g128-tied", "autogptq-0.5.1-int4-g128-bin")

    def prepare(self, place):
        for model in self.models:
            shutil.copytree(ROOT / "fixtures" / model / "checkpoint", place / "in" / model)
        with open(place / "plan.jsonl", "w") as plan:
            subprocess.run([self.options.zoo, "plan", "in", "out", "--target=transformers-4.x", "--quiet"], cwd=place, stdout=plan, check=True)

    def command(self):
        return [self.options.zoo, "run", "plan.jsonl", "--jobs=1"]

    def is_whole(self, out):
        def part(files, model):
            return {name: hash for name, hash in (files or {}).items() if name.startswith(f"{model}/")}
        shown = {name: hash for name, hash in (out or {}).items() if not name.startswith(".")}
        return all(part(shown, model) in ({}, part(self.expected, model)) for model in self.models) and all(name in self.expected for name in shown)


KINDS = {**{name: Conversion for name in CONVERSIONS}, "restore": Restoring, "zoo": Zoo}


def make(name, options):
    return KINDS[name](name, options)
