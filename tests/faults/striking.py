"""Fails every call of the system that a job makes, once each with each error, and kills it in the place of each.

After each run:
  - the exit code is one that the README names, and on a failure standard error says why, with an id;
  - the input has the bytes and times that it had;
  - the output is as before, or byte by byte that of an undisturbed run, and exit code 0 means that it is there;
  - unless the process was killed or could not remove what it had made, no hidden folder is left;
  - a run without a fault succeeds afterwards, with the bytes of an undisturbed run.
"""

import errno
import functools
import pathlib

import jobs

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
MANY = {"read", "open", "stat", "close", "list"}  # of which --every=N takes every N-th
KILLS = ("write", "sync", "rename", "mkdir", "unlink", "allocate")
EXIT_OF = {"ENOSPC": {76}, "EDQUOT": {76}, "EACCES": {77}}
CLEANING = {"unlink", "list", "open", "lock", "stat"}  # without which a failed run cannot clean up
KILLED = -9


def checks(job, every, calls):
    """(description, check) for each (call, what); --every=N takes every N-th of the calls that are many."""
    for call, what in calls:
        for at in range(1, job.counts[call] + 1):
            if call not in MANY or at % every == 0:
                yield f"{job.name}: {what} at {call} {at}", functools.partial(strike, job, call, at, what)


def faults(job, every):
    return checks(job, every, [(call, error) for call, errors in ERRORS.items() for error in errors])


def kills(job, every):
    return checks(job, every, [(call, "kill") for call in KILLS])


def strike(job, call, at, what):
    """What is wrong after one run that was struck; nothing if all is well."""
    with jobs.place_for() as folder:
        place = pathlib.Path(folder)
        job.prepare(place)
        before = jobs.state(place / "in")
        number = what if what in ("short", "kill") else getattr(errno, what)
        done = job.run(place, {"Q2C_FAULT": f"{call}:{at}:{number}"})
        wrong = [] if jobs.state(place / "in") == before else ["the input was changed"]
        out = jobs.digests(place / "out")
        if not job.is_whole(out):
            wrong.append(f"exit {done.returncode}, and half an output: {None if out is None else sorted(out)}")
        if what == "kill":
            wrong += [] if done.returncode == KILLED else [f"exit {done.returncode} instead of being killed"]
        else:
            wrong += judge(job, done, call, what, out, place)
        return wrong + job.check_again(place)


def judge(job, done, call, what, out, place):
    wrong = []
    code, said = done.returncode, done.stderr.strip()
    if code not in jobs.EXITS:
        wrong.append(f"exit {code}: {said}")
    if what in ("EINTR", "short") and code != 0:
        wrong.append(f"not taken up again: exit {code}: {said}")
    if code == 0 and out != job.expected:
        wrong.append("exit 0 without the output of an undisturbed run")
    if code != 0 and not jobs.FAILURE.search(said):
        wrong.append(f"exit {code} without a message and an id: {said}")
    if code != 0 and what in EXIT_OF and code not in EXIT_OF[what] | {74}:
        wrong.append(f"{what} of {call} gives exit {code}: {said}")
    if call not in CLEANING and (left := job.left(place)):
        wrong.append(f"left behind: {left}")
    return wrong
