#!/usr/bin/python3
"""Plans a zoo of each malformed checkpoint of tests/malformed alone.

    malformed.py --zoo=PATH --convert=PATH [--every=N] [--no-limits]

For every case: qwen2-zoo plan ends with 0 or 1, in time and memory; what is no model to convert has a line with an id, and
nothing is written but the plan. Prints what failed and a count; exits 1 if anything failed.
"""

import argparse
import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "malformed"))
import checkpoint  # noqa: E402
import run as malformed  # noqa: E402


def complaints(case, box, options):
    before = malformed.snapshot(box.root)
    code, out, err, seconds, mib = malformed.run([options.zoo, "plan", box.input, box.out, f"--target={case.target}", "--quiet"], box)
    said = err.decode(errors="replace")
    lines = [json.loads(line) for line in out.decode().splitlines()[1:]]
    if code not in (0, 1, 2, 65, 74, 77):
        yield f"exit {code}: {said}"
    if code != 0 and not (lines or malformed.re.search(r"\[[a-z0-9-]+\]$", said.strip())):
        yield f"exit {code}, and nothing says why: {said}"
    if any("refused" in line and not line["refused"]["id"] for line in lines):
        yield f"refused without an id: {lines}"
    if (code == 1) != any("refused" in line for line in lines) and code in (0, 1):
        yield f"exit {code}, but the lines are {lines}"
    if malformed.UNSAFE.search(said) or malformed.UNSAFE.search(out.decode()):
        yield "a control character"
    if not options.no_limits and (seconds > max(5, case.seconds) or mib > max(256, case.memory_mib)):
        yield f"{seconds:.1f} s, {mib:.0f} MiB"
    if difference := malformed.difference(before, malformed.snapshot(box.root)):
        yield difference


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--zoo", type=pathlib.Path, required=True)
    parser.add_argument("--convert", type=pathlib.Path, required=True)
    parser.add_argument("--every", type=int, default=1, metavar="N")
    parser.add_argument("--no-limits", action="store_true")
    options = parser.parse_args()
    done = failed = 0
    with tempfile.TemporaryDirectory(prefix="qwen2-zoo-malformed-") as folder:
        root = pathlib.Path(folder)
        root.chmod(0o755)
        (root / "bases").mkdir()
        for case, box in malformed.damaged(checkpoint.Bases(str(options.convert.resolve()), root / "bases"), root, options.every):
            wrong = list(complaints(case, box, options))
            done, failed = done + 1, failed + bool(wrong)
            for text in wrong:
                print(f"FAIL {case.id} {case.name}: {text}")
    print(f"{done} malformed checkpoints planned, {failed} failed")
    return 1 if failed or not done else 0


if __name__ == "__main__":
    sys.exit(main())
