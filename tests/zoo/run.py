#!/usr/bin/python3
"""Runs whole zoos with the real program, and does to the workers what machines do to them.

    run.py --binary=PATH [--models=N] [--kills=N] [--workers=N] [--seed=N] [SCENARIO...]

After each scenario: every model is done, or failed with its right reason; at most one worker
made each output; no staging folder and no lease is left; all outputs verify; the input is as it was.
Prints a line for each scenario, exits 1 if any fails.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import make_zoo  # noqa: E402

STALE = "--stale=2"


class Broken(Exception):
    pass


def expect(condition, what):
    if not condition:
        raise Broken(what)


def digest_tree(folder):
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        if path.is_file() and not path.is_symlink():
            digest.update(path.read_bytes())
    return digest.hexdigest()


class Zoo:
    def __init__(self, options, folder, models):
        self.binary, self.folder, self.rng = options.binary, folder, random.Random(options.seed)
        self.root, self.out, self.plan = folder / "zoo", folder / "out", folder / "plan.jsonl"
        self.expected = make_zoo.make(self.root, models, options.seed)
        self.workers, self.started = [], 0
        self.make_plan(self.plan)

    def tool(self, *arguments, code=0):
        done = subprocess.run([self.binary, *map(str, arguments)], capture_output=True, text=True)
        expect(done.returncode == code, f"qwen2-zoo {arguments[0]}: exit {done.returncode}, expected {code}: {done.stderr[-1500:]}")
        return done.stdout

    def make_plan(self, path):
        path.write_text(self.tool("plan", self.root, self.out, make_zoo.TARGET, "--quiet", code=1 if "planned" in self.expected.values() else 0))
        lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        expect({line["in"] for line in lines} == set(self.expected), "the plan does not name exactly the models of the zoo")
        for line in lines:
            expect(("refused" in line) == (self.expected[line["in"]] == "planned"), f"{line['in']}: {line.get('refused')}, expected {self.expected[line['in']]}")

    def start(self, *arguments, plan=None, jobs=1):
        log = open(self.folder / f"worker-{self.started}.log", "w")
        self.started += 1
        self.workers.append(subprocess.Popen([self.binary, "run", str(plan or self.plan), f"--jobs={jobs}", STALE, *arguments], stderr=log, stdin=subprocess.DEVNULL))
        return self.workers[-1]

    def logs(self):
        return "".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))

    def status(self, plan=None):
        return json.loads(self.tool("status", plan or self.plan, "--json"))

    def wait(self, codes, workers=None):
        for worker in workers or self.workers:
            code = worker.wait(timeout=600)
            expect(code in codes, f"a worker ended with {code}, expected {codes}: {self.logs()[-1500:]}")

    def wait_for_progress(self, settled):
        """Until so many models are settled, or no worker is left."""
        while True:
            status = self.status()
            if status["done"] + status["failed"] >= settled or all(worker.poll() is not None for worker in self.workers):
                return status
            time.sleep(0.02)

    def records(self, plan=None):
        found = []
        for path in sorted((pathlib.Path(str(plan or self.plan) + ".d") / "journal").glob("*.jsonl")):
            lines = path.read_text().split("\n")
            found += [json.loads(line) for line in lines[:-1] if "event" in line]
        return found

    def check(self, failures=None, plans=None):
        """`failures`: model -> id, beyond what the zoo itself expects."""
        failures = failures or {}
        plans = plans or [self.plan]
        made = {}
        for plan in plans:
            report = json.loads(self.tool("report", plan, "--json"))
            expect(report["open"] == 0, f"{report['open']} models are open")
            by_model = {item["model"]: item for item in report["per_model"]}
            for model, expected in self.expected.items():
                if expected == "planned":
                    expect(model not in by_model and not (self.out / model).exists(), f"{model} was refused, and yet it was run")
                elif model in failures:
                    expect(by_model[model]["state"] == "failed" and by_model[model]["id"] == failures[model], f"{model}: {by_model[model]}, expected {failures[model]}")
                else:
                    expect(by_model[model]["state"] == "done", f"{model}: {by_model[model]}")
                    expect((self.out / model / "config.json").is_file(), f"{model}: no output")
            for record in self.records(plan):
                if record["event"] == "done" and not record["found_equal"]:
                    made[record["model"]] = made.get(record["model"], 0) + 1
            verified = json.loads(self.tool("verify", plan, "--json"))
            expect(verified["wrong"] == [] and verified["staging_left"] == [], f"verify: {verified}")
            left = [path.name for path in (pathlib.Path(str(plan) + ".d") / "leases").glob("*.*")]
            expect(left == [], f"leases are left: {left}")
        expect(all(count == 1 for count in made.values()), f"made more than once: {[model for model, count in made.items() if count > 1]}")
        hidden = [str(path) for path in self.out.rglob(".*")]
        expect(hidden == [], f"left in the folder of outputs: {hidden}")
        sample = self.rng.choice([model for model, expected in self.expected.items() if expected == "done" and model not in failures])
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=self.out / sample, check=True)


def kill_at_random(zoo, kills, workers, disturb=lambda: None):
    """Kills a random worker each time another few models are settled; a new one takes its place."""
    total = zoo.status()["models"]
    for _ in range(workers):
        zoo.start()
    for number in range(kills):
        zoo.wait_for_progress((number + 1) * total // (kills + 2))
        disturb()
        alive = [worker for worker in zoo.workers if worker.poll() is None]
        if not alive:
            break
        victim = zoo.rng.choice(alive)
        time.sleep(zoo.rng.random() * 0.05)  # anywhere within a model
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        zoo.workers.remove(victim)
        zoo.start()


def scenario_kills(options, folder):
    """Workers die at random. Beside that: models changed after they were planned, outputs that are there already."""
    zoo = Zoo(options, folder, options.models)
    sound = sorted(model for model, expected in zoo.expected.items() if expected == "done")
    changed, crashing, other, same = zoo.rng.sample([model for model in sound if not model.startswith("models--")], 4)
    make_zoo.own(zoo.root / changed / "config.json")
    with open(zoo.root / changed / "config.json", "a") as file:
        file.write("\n")
    convert = [str(pathlib.Path(options.binary).with_name("qwen2-convert")), "--quiet"]
    for model in (other, same):
        (zoo.out / model).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([*convert, zoo.root / model, zoo.out / model, make_zoo.TARGET], check=True, stderr=subprocess.DEVNULL)
    with open(zoo.out / other / "config.json", "a") as file:
        file.write("\n")
    before = digest_tree(zoo.root)
    kill_at_random(zoo, options.kills, options.workers)
    zoo.wait((1,))
    failures = {changed: "changed-since-plan", other: "output-differs"}
    zoo.check(failures)
    equal = [record["model"] for record in zoo.records() if record["event"] == "done" and record["found_equal"]]
    expect(same in equal, f"{same} was there already, and no worker said so")
    expect(digest_tree(zoo.root) == before, "the input was changed")
    expect("equal output was there already" in zoo.logs(), "no log line says that an equal output was found")
    # Running again finds nothing to do, and says again that something failed.
    worker = zoo.start()
    zoo.wait((1,), [worker])
    status = zoo.status()
    expect(status["failed"] == len(failures), f"{status}")
    return f"{status['done']} done, {status['failed']} failed, {options.kills} kills, {status['workers']} workers, {status['found_equal']} times found equal, {status['elapsed_seconds']:.1f} s"


def scenario_skew(options, folder):
    """Leases whose times are wrong by hours, as from machines with wrong clocks."""
    zoo = Zoo(options, folder, max(20, options.models // 2))

    def disturb():
        for lease in (folder / "plan.jsonl.d" / "leases").glob("*.*"):
            off = zoo.rng.choice((-7200, -3, 3, 7200))
            try:
                os.utime(lease, (time.time() + off, time.time() + off))
            except FileNotFoundError:
                pass

    kill_at_random(zoo, options.kills // 2, options.workers, disturb)
    zoo.wait((0,))
    zoo.check()
    return f"{zoo.status()['done']} done"


def scenario_vanishing(options, folder):
    """The folder of leases is removed again and again."""
    zoo = Zoo(options, folder, max(20, options.models // 2))
    kill_at_random(zoo, options.kills // 2, options.workers, lambda: shutil.rmtree(folder / "plan.jsonl.d" / "leases", ignore_errors=True))
    zoo.wait((0,))
    zoo.check()
    return f"{zoo.status()['done']} done"


def scenario_two_zoos(options, folder):
    """Two plans with the same outputs, run at once: each model is made by one of them and found equal by the other."""
    zoo = Zoo(options, folder, max(20, options.models // 3))
    second = folder / "again.jsonl"
    zoo.make_plan(second)
    for plan in (zoo.plan, second, zoo.plan, second):
        zoo.start(plan=plan)
    zoo.wait((0,))
    zoo.check(plans=[zoo.plan, second])
    done = zoo.status()["done"]
    equal = zoo.status()["found_equal"] + zoo.status(second)["found_equal"]
    expect(equal == done, f"{equal} of {done} outputs were found equal by the second plan, expected all")
    return f"{done} done, {equal} found equal"


def scenario_changing(options, folder):
    """A file that somebody writes to again and again while it is read: tried three times, then failed; the others are done."""
    zoo = Zoo(options, folder, 20)
    victim = sorted(model for model, expected in zoo.expected.items() if expected == "done" and not model.startswith("models--"))[0]
    path = make_zoo.weights(zoo.root / victim)
    make_zoo.own(path)
    worker = zoo.start()
    while worker.poll() is None:
        os.utime(path)
    zoo.wait((1,), [worker])
    zoo.check({victim: "changed-during-read"})
    tries = [record["event"] for record in zoo.records() if record["model"] == victim]
    expect(tries == ["try-again", "try-again", "failed"], f"{victim}: {tries}")
    zoo.tool("retry", zoo.plan)
    worker = zoo.start()
    zoo.wait((0,), [worker])
    zoo.check()
    return "3 tries, 1 failure, 1 retry"


def scenario_signals(options, folder):
    """One interrupt lets the model in work be finished, a second stops it; both leave a zoo that can go on."""
    zoo = Zoo(options, folder, 20)
    worker = zoo.start(jobs=2)
    zoo.wait_for_progress(2)
    worker.send_signal(signal.SIGINT)
    zoo.wait((130,), [worker])
    status = zoo.status()
    expect(status["open"] > 0 and status["working"] == [], f"after an interrupt: {status}")
    expect(all(record["event"] == "done" for record in zoo.records()), "a model in work was not finished")
    worker = zoo.start(jobs=2)
    zoo.wait_for_progress(status["done"] + 2)
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGTERM)
    zoo.wait((143,), [worker])
    expect(not [path for path in zoo.out.rglob(".*")], "a stopped worker left its staging folder")
    expect(zoo.status()["working"] == [], "a stopped worker kept its lease")
    limited = zoo.start("--limit=1")
    zoo.wait((0,), [limited])
    worker = zoo.start()
    zoo.wait((0,), [worker])
    zoo.check()
    return f"{zoo.status()['done']} done"


def scenario_crash(options, folder):
    """A crash in one model takes down neither the worker nor the others, and can be tried again."""
    zoo = Zoo(options, folder, 20)
    victim = sorted(model for model, expected in zoo.expected.items() if expected == "done")[0]
    worker = zoo.start(f"--test-crash={victim}")
    zoo.wait((1,), [worker])
    zoo.check({victim: "crash"})
    expect(zoo.tool("retry", zoo.plan, "--only=hash") == "nothing to retry\n", "retry of another finding opened something")
    expect(f"open again: {victim}" in zoo.tool("retry", zoo.plan, "--only=crash"), "retry did not open the model")
    worker = zoo.start()
    zoo.wait((0,), [worker])
    zoo.check()
    shutil.rmtree(zoo.out / victim)
    zoo.tool("verify", zoo.plan, code=1)
    zoo.tool("retry", zoo.plan, "--only=output-missing")
    worker = zoo.start()
    zoo.wait((0,), [worker])
    zoo.tool("verify", zoo.plan)
    return "1 crash, 2 retries"


def scenario_lease_folder(options, folder):
    """A folder of leases that is full, or read-only: the worker ends with the right code, and nothing is lost."""
    zoo = Zoo(options, folder, 20)
    leases = folder / "mounted"
    leases.mkdir()
    arguments = [f"--leases={leases}"]
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=4", "tmpfs", leases], stderr=subprocess.DEVNULL).returncode != 0:
        return "skipped: no permission to mount"
    try:
        # Room for the clock and two leases; the rest of the inodes is taken away.
        (leases / "a").touch()
        (leases / "b").touch()
        worker = zoo.start(*arguments)
        zoo.wait((76,), [worker])
        (leases / "a").unlink()
        worker = zoo.start(*arguments, "--limit=3")
        zoo.wait((0,), [worker])
        subprocess.run(["mount", "-o", "remount,ro", leases], check=True)
        worker = zoo.start(*arguments)
        zoo.wait((77,), [worker])
        expect(zoo.status()["done"] == 3, f"{zoo.status()}")
        subprocess.run(["mount", "-o", "remount,rw", leases], check=True)
        # Read-only in the middle of the work: the model in hand is finished and recorded.
        worker = zoo.start(*arguments)
        zoo.wait_for_progress(6)
        subprocess.run(["mount", "-o", "remount,ro", leases], check=True)
        zoo.wait((77, 0), [worker])
        subprocess.run(["mount", "-o", "remount,rw", leases], check=True)
        worker = zoo.start(*arguments)
        zoo.wait((0,), [worker])
        zoo.check()
    finally:
        subprocess.run(["umount", leases], check=True)
    return f"{zoo.status()['done']} done"


SCENARIOS = {name[len("scenario_"):]: function for name, function in sorted(globals().items()) if name.startswith("scenario_")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--models", type=int, default=60)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the folders of scenarios that fail")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    options = parser.parse_args()
    options.binary = os.path.abspath(options.binary)
    failed = 0
    for name in options.scenarios or SCENARIOS:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="qwen2-zoo-"))
        begun = time.monotonic()
        bad = True
        try:
            print(f"{name}: {SCENARIOS[name](options, folder)} ({time.monotonic() - begun:.1f} s)", flush=True)
            bad = False
        except (Broken, subprocess.SubprocessError, AssertionError) as error:
            print(f"FAIL {name}: {error}", flush=True)
        failed += bad
        if not (bad and options.keep):
            shutil.rmtree(folder)
        else:
            print(f"     left in {folder}")
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
