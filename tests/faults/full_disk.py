"""Converts on file systems that are too small, from nothing free to enough: exit 76, found before the first byte where it can
be, nothing left; and on one that is mounted read-only. Needs the right to mount (root)."""

import functools
import pathlib
import shutil
import subprocess

import jobs

STEPS = 24
RESERVE = 768  # pages that a conversion wants left for what it cannot plan: manifest, sums, undo record


def mount(at, *options):
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", at], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def may_mount():
    with jobs.place_for() as folder:
        if problem := mount(folder, "size=1M"):
            return problem
        subprocess.run(["umount", folder], check=True)
    return ""


def disks(job, every):
    with jobs.place_for() as folder:
        place = pathlib.Path(folder)
        job.prepare(place)
        done = job.run(place)
        pages = sum(-(-path.stat().st_size // 4096) + 1 for path in (place / "out").iterdir()) + RESERVE if done.returncode == 0 else 0
    for step in range(STEPS + 1):
        if step % min(every, 4) == 0:
            yield f"{job.name}: {pages * step // STEPS} of {pages} pages free", functools.partial(fill, job, pages * step // STEPS, step == STEPS)
    yield f"{job.name}: read-only", functools.partial(fill, job, None, False)


def fill(job, pages, is_enough):
    with jobs.place_for() as folder:
        place, small = pathlib.Path(folder), pathlib.Path(folder) / "small"
        job.prepare(place)
        small.mkdir()
        (place / "out").rename(small / "out") if (place / "out").exists() else None
        used = sum(-(-path.stat().st_size // 4096) + 1 for path in small.rglob("*"))
        old = jobs.digests(small / "out")
        if pages is None:
            subprocess.run(["mount", "--bind", small, small], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", small], check=True)
        else:
            kept = place / "kept"
            small.rename(kept)
            small.mkdir()
            mount(small, f"size={(pages + used + 2) * 4096}")  # and the root folder
            for entry in kept.iterdir():
                shutil.move(entry, small / entry.name)
        try:
            before = jobs.state(place / "in")
            command = [word if word != "out" else "small/out" for word in job.command()]
            done = subprocess.run(command, cwd=place, env=job.environment(None), capture_output=True, text=True, timeout=120)
            out, said = jobs.digests(small / "out"), done.stderr.strip()
            wrong = [] if jobs.state(place / "in") == before else ["the input was changed"]
            if done.returncode == 0 and (pages is None or out != job.expected):
                wrong.append("exit 0 without a whole output")
            if done.returncode != 0 and (is_enough or done.returncode not in ((77, 74) if pages is None else (76,)) or not jobs.FAILURE.search(said)):
                wrong.append(f"exit {done.returncode}: {said}")
            if done.returncode != 0 and out != old:
                wrong.append(f"half an output: {sorted(out)}")
            if left := [entry.name for entry in small.iterdir() if entry.name != "out"]:
                wrong.append(f"left behind: {left}")
            return wrong
        finally:
            subprocess.run(["umount", small], check=True)
