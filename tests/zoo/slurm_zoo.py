"""The part of slurm_test.sh that makes the zoo, submits it, kills a node and looks at what came of it."""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import run  # noqa: E402

SBATCH = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "slurm" / "qwen2-zoo.sbatch"
DEADLINE = 300  # seconds for the whole of it


def slurm(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def until(condition, what, begun):
    while not condition():
        run.expect(time.monotonic() - begun < DEADLINE, f"gave up waiting until {what}\n{slurm('squeue', '-l')}{slurm('sinfo', '-N')}")
        time.sleep(0.2)


def processes_of(node):
    """What runs there: the job's processes know their node, and each has a slurmstepd above it."""
    found = set()
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"SLURMD_NODENAME={node}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if (pathlib.Path("/proc") / str(parent) / "comm").read_text().startswith("slurmstepd"):
                    found.add(parent)
        except OSError:
            continue
    return found - {os.getpid()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--node-daemon", type=int, required=True, help="process id of n2's slurmd")
    parser.add_argument("--models", type=int, default=200)
    options = parser.parse_args()
    options.seed = 7
    begun = time.monotonic()
    zoo = run.Zoo(options, options.folder, options.models)
    os.environ["QWEN2_ZOO"] = options.binary
    job = slurm("sbatch", "--parsable", "--array=0-3", "--cpus-per-task=1", "--time=10", f"--chdir={options.folder}", str(SBATCH), str(zoo.plan), run.STALE).strip()
    total = zoo.status()["models"]
    print(slurm("squeue", "-l"))

    until(lambda: len(processes_of("n1")) > 2 and len(processes_of("n2")) > 2, "both nodes have workers", begun)
    on = {node: slurm("squeue", "-h", "-r", "-j", job, "-t", "RUNNING", "-w", node, "-o", "%i").split() for node in ("n1", "n2")}
    run.expect(len(on["n1"]) == 2 and len(on["n2"]) == 2, f"expected two tasks a node: {on}")

    # What Slurm does some minutes before the time limit: the task finishes its model and asks to be queued again.
    until(lambda: zoo.status()["done"] >= total // 10, "a tenth is done", begun)
    slurm("scancel", "--batch", "--signal=USR1", on["n1"][0])
    until(lambda: on["n1"][0] in slurm("squeue", "-h", "-r", "-j", job, "-t", "PENDING", "-o", "%i").split(), "the task near its time limit is queued again", begun)
    print(f"{on['n1'][0]} was told of its time limit and queued itself again")

    until(lambda: zoo.status()["done"] >= total // 4, "a quarter is done", begun)
    killed = processes_of("n2")
    os.kill(options.node_daemon, signal.SIGKILL)
    for process in killed:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass
    at = zoo.status()["done"]
    print(f"killed the daemon of n2 and {len(killed)} processes when {at} of {total} were done")
    run.expect(at < total, "the node was killed too late for this to be a test")

    until(lambda: zoo.status()["open"] == 0, "every model is settled", begun)
    print(f"every model is settled after {time.monotonic() - begun:.0f} s")
    # Slurm finds the node gone, and queues its tasks again for later: now is as good.
    until(lambda: "n2" in slurm("sinfo", "-h", "-N", "-t", "down", "-o", "%N"), "Slurm has noticed that n2 is down", begun)
    until(lambda: slurm("squeue", "-h", "-j", job, "-t", "RUNNING") == "", "the workers on n1 are through", begun)
    again = slurm("squeue", "-h", "-r", "-j", job, "-t", "PENDING", "-o", "%i").split()
    print(f"queued again by Slurm: {' '.join(again)}\n{slurm('sinfo', '-N')}")
    run.expect(sorted(again) == sorted([on["n1"][0], *on["n2"]]), f"expected {on['n1'][0]} and the tasks of n2 to be queued again, got {again}")
    for task in again:
        slurm("scontrol", "update", f"JobId={task}", "StartTime=now")
    until(lambda: slurm("squeue", "-h", "-j", job) == "", "no task is left", begun)
    restarted = [line for task in again for line in slurm("scontrol", "show", "job", task).split() if line.startswith(("Restarts=", "JobState=", "ExitCode="))]
    print(" ".join(restarted))
    run.expect(restarted.count("JobState=COMPLETED") == len(again), f"the tasks that were queued again did not complete: {restarted}")

    zoo.check()
    status = zoo.status()
    print(f"{status['done']} of {status['models']} models done by {status['workers']} workers, {status['found_equal']} times found equal; {time.monotonic() - begun:.0f} s in all")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except run.Broken as error:
        print(f"FAIL: {error}")
        sys.exit(1)
