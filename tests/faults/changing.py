"""Changes the input while it is read, and starts a second run while one is writing. The process stands still meanwhile
(SIGSTOP at the N-th read or write), so that nothing depends on time.

A changed input is noticed by size, time or identity: exit 65 or 75, no output. The second run on the same output exits 75
and touches nothing; the first one ends as if it had been alone.
"""

import functools
import os
import pathlib
import shutil
import signal
import subprocess

import jobs


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def extend(path):
    with open(path, "ab") as file:
        file.write(b"more")


def touch(path):
    os.utime(path, ns=(1, 1))


def replace(path):
    """With a file of the same bytes and times, in place of the old one."""
    fresh = path.with_name("fresh")
    shutil.copy2(path, fresh)
    os.rename(fresh, path)


def rewrite(path):
    """One bit, in place."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path)


CHANGES = {change.__name__: change for change in (truncate, extend, touch, replace, rewrite)}


def start_stopped(job, place, call, at):
    """Nothing if it ends before it gets there."""
    process = subprocess.Popen(job.command(), cwd=place, env=job.environment({"Q2C_FAULT": f"{call}:{at}:stop"}),
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        raise SystemExit(f"{job.name}: {call} {at} was not reached")
    return process


def finish(process):
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=120)
    return process.returncode, said.strip()


def weights(place):
    return sorted(path for path in (place / "in").iterdir() if path.suffix in (".safetensors", ".bin"))


def changes(job, every):
    with jobs.place_for() as folder:
        job.prepare(pathlib.Path(folder))
        shards = len(weights(pathlib.Path(folder)))
    for at in range(1, job.counts["read"] + 1):
        if at % every == 0:
            for name in CHANGES:
                for shard in range(shards):
                    yield f"{job.name}: {name} of weight file {shard} at read {at}", functools.partial(change, job, at, name, shard)


@functools.cache
def converted_after(job, name, shard):
    """What an undisturbed run makes of an input that was changed before it."""
    with jobs.place_for() as folder:
        place = pathlib.Path(folder)
        job.prepare(place)
        CHANGES[name](weights(place)[shard])
        job.run(place)
        return jobs.digests(place / "out")


def change(job, at, name, shard):
    with jobs.place_for() as folder:
        place = pathlib.Path(folder)
        job.prepare(place)
        process = start_stopped(job, place, "read", at)
        CHANGES[name](weights(place)[shard])
        code, said = finish(process)
        out = jobs.digests(place / "out")
        wrong = []
        # What was changed before it was opened for the first time is another input, and not one that changes.
        if code == 0 and out == (converted_after(job, name, shard) if name == "rewrite" else job.expected):
            return wrong
        if code not in (65, 75) or not jobs.FAILURE.search(said):
            wrong.append(f"exit {code}: {said}")
        if out != job.old:
            wrong.append(f"an output all the same: {sorted(out)}")
        if left := job.left(place):
            wrong.append(f"left behind: {left}")
        return wrong


def pairs(job, every):
    for call in ("write", "sync", "rename"):
        for at in range(1, job.counts[call] + 1):
            yield f"{job.name}: a second run at {call} {at}", functools.partial(pair, job, call, at)


def pair(job, call, at):
    with jobs.place_for() as folder:
        place = pathlib.Path(folder)
        job.prepare(place)
        process = start_stopped(job, place, call, at)
        before = jobs.state(place)
        # Once out/ is in place the second run finds a whole one, which it refuses, or replaces if it is told to.
        is_done = jobs.digests(place / "out") == job.expected
        second = job.run(place)
        wrong = [] if is_done or jobs.state(place) == before else ["the second run touched something"]
        if second.returncode not in ((75, 2 if job.refuses_whole else 0) if is_done else (75,)):
            wrong.append(f"the second run: exit {second.returncode}: {second.stderr.strip()}")
        code, said = finish(process)
        if code != 0 or jobs.digests(place / "out") != job.expected or job.left(place):
            wrong.append(f"the first run: exit {code}: {said}; left {job.left(place)}")
        return wrong
