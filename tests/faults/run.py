#!/usr/bin/python3
"""Does to small conversions what disks, kernels and people do to large ones; the other files here say what, and what must hold.

    run.py --convert=PATH --audit=PATH --zoo=PATH --library=PATH [--every=N] [--flips=N] [--jobs=LIST] [PART...]

Parts: faults, kills, power, changes, pairs, disks, flips (default: all). --every=N takes every N-th of what is many.
Prints what failed and a count for each part; exits 1 if anything failed, 3 if a part could not be run.
"""
import argparse
import concurrent.futures
import os
import pathlib
import sys

import changing
import flips
import full_disk
import jobs
import losing_power
import striking

CONVERSIONS = tuple(jobs.CONVERSIONS)
# part: (checks of one job, which jobs, in words)
PARTS = {
    "faults": (striking.faults, (*CONVERSIONS, "restore"), "system calls failed"),
    "kills": (striking.kills, (*CONVERSIONS, "restore", "zoo"), "kills"),
    "power": (losing_power.losses, (*CONVERSIONS, "restore"), "losses of power"),
    "changes": (changing.changes, ("shards", "bin"), "changes of the input while it is read"),
    "pairs": (changing.pairs, ("single", "force"), "second runs on the same output"),
    "disks": (full_disk.disks, CONVERSIONS, "disks too small or read-only"),
}
AT_ONCE = 4


def run_all(pool, checks):
    """(done, failed); no more than a few are prepared ahead."""
    done = failed = 0
    waiting = {}

    def settle(futures):
        nonlocal done, failed
        for future in futures:
            name, wrong = waiting.pop(future), future.result()
            done, failed = done + 1, failed + bool(wrong)
            for text in wrong:
                print(f"FAILED {name}: {text}", flush=True)

    for name, check in checks:
        waiting[pool.submit(check)] = name
        if len(waiting) >= AT_ONCE:
            settle(concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED).done)
    settle(list(waiting))
    return done, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    for name in ("convert", "audit", "zoo", "library"):
        parser.add_argument(f"--{name}", type=lambda path: pathlib.Path(path).resolve(), required=True)
    parser.add_argument("--every", type=int, default=1, metavar="N")
    parser.add_argument("--flips", type=int, default=10000, metavar="N")
    parser.add_argument("--jobs", help=f"comma-separated, of {', '.join(jobs.KINDS)}; default: all")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS, "flips"])
    options = parser.parse_args()
    parts, wanted = options.parts or [*PARTS, "flips"], options.jobs.split(",") if options.jobs else list(jobs.KINDS)
    made, all_failed, not_run = {}, 0, 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in parts:
            if part == "disks" and (problem := full_disk.may_mount()):
                print(f"disks: not run: {problem}")
                not_run += 1
            elif part == "flips":
                with jobs.place_for() as folder:
                    flip = flips.Flips(options, folder)
                    done, failed = run_all(pool, flip.checks(options.flips))
                    shares = flip.share(pool, max(1, options.flips // 10))
                print(f"flips: {done} bits flipped where digests are kept, {done - failed} found: {failed} failed", flush=True)
                print("       without digests: " + ", ".join(f"{hits} of {total} found in {where}" for where, (hits, total) in sorted(shares.items())))
                all_failed += failed
            elif part in PARTS:
                checks, of, words = PARTS[part]
                done = failed = 0
                for name in of:
                    if name in wanted:
                        made[name] = made.get(name) or jobs.make(name, options)
                        result = run_all(pool, checks(made[name], options.every))
                        done, failed = done + result[0], failed + result[1]
                print(f"{part}: {done} {words}: {failed} failed", flush=True)
                all_failed += failed
    return 1 if all_failed else 3 if not_run else 0


if __name__ == "__main__":
    sys.exit(main())
