#!/usr/bin/env python3
"""Loads every fixture in the real loader stacks, as it is and converted, and says whether each came out right.

    run.py [--stacks=LIST] [--fixtures=LIST] [--tool=FILE] [--markdown=FILE] [--json=FILE]

Exit code 0 if every cell is as demanded, 1 if not, 2 for a wrong call. The stacks must be installed (stacks.sh).
"""
import argparse
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # no __pycache__ in the tree
import limits  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
FIXTURES = PROJECT / "fixtures"
STACK_DIR = pathlib.Path(
    os.environ.get("QWEN2_INTEROP_DIR") or os.path.join(os.environ.get("TMPDIR") or "/tmp", "qwen2-interop"))
LOAD_SECONDS = 1800  # for one stack; the first load may compile kernels
REFUSED = 69
TEXT_SHOWN = 90
# How a cell is shortened for the table; the whole text is in --json.
BRIEF = [
    (r"^clean, logits within (\S+)", "clean {}"),
    (r"^(\d+ unexpected), logits within", "{}"),
    (r"^logits not finite, (.*)", "NaN, {}"),
    (r"^refused: .*(\[\S+\])$", "refused {}"),
    (r"no file named", "not opened"),
    (r"model type `(\w+)`", "no {}"),
    (r"^error: (\w+)", "{}"),
]


def shortened(text):
    text = " ".join(text.split())
    return text if len(text) <= TEXT_SHOWN else text[: TEXT_SHOWN - 1] + "…"


# Conversion


def convert(tool, checkpoint, out, target, *options):
    """The converted folder, or why there is none: {"folder"} or {"refused"} or {"failed"}."""
    done = subprocess.run([tool, checkpoint, out, f"--target={target}", "--quiet", *options],
                          capture_output=True, text=True, timeout=600)
    if done.returncode == 0:
        return {"folder": out}
    lines = [line for line in done.stderr.splitlines() if "error:" in line] or done.stderr.splitlines() or [""]
    reason = lines[0].split("error: ", 1)[-1].replace(str(checkpoint), checkpoint.parent.name)
    if done.returncode == REFUSED:
        return {"refused": reason}
    return {"failed": f"exit {done.returncode}: {reason}"}


def convert_all(tool, fixtures, targets, scratch):
    """By (fixture, target)."""
    return {
        (fixture, target): convert(tool, FIXTURES / fixture / "checkpoint", scratch / f"{fixture}@{target}", target)
        for fixture in fixtures for target in targets
    }


# Loading


def load_some(stack, program, pairs):
    """The results of the pairs up to the first that ended the process, and how it ended."""
    command = [STACK_DIR / stack / "bin" / "python", HERE / program[0], *program[1:]]
    for pair in pairs:
        command += pair
    # The loaders compile kernels; what they keep of them belongs to the stacks' folder, not to the user's home.
    home = STACK_DIR / "home"
    environment = {**os.environ, "HOME": str(home), "HF_HOME": str(home / "hub"), "TMPDIR": str(home / "tmp"),
                   "PYTHONDONTWRITEBYTECODE": "1"}  # no __pycache__ in the tree
    with tempfile.TemporaryFile("w+") as talk:
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=talk, text=True, env=environment,
                                  timeout=LOAD_SECONDS)
            out, end = done.stdout, f"loader process ended with {done.returncode}"
        except subprocess.TimeoutExpired as expired:
            out, end = (expired.stdout or b"").decode(), f"no result within {LOAD_SECONDS} s"
        talk.seek(0)
        talk_lines = talk.read().splitlines()
    if talk_lines:
        end += f" ({talk_lines[-1]})"
    return [json.loads(line) for line in out.splitlines()], end


def load_all(stack, program, pairs):
    """One result a pair, by a program of this folder and its arguments. A loader that takes the process down costs its own pair only."""
    results = []
    while len(results) < len(pairs):
        some, end = load_some(stack, program, pairs[len(results):])
        results += some
        if len(results) < len(pairs):
            results.append({"error": end})
    return results


def describe(result, checkpoint, tolerance):
    """What the loader made of it, in a few words; "clean, …" is the only good one."""
    if result.get("error"):
        return "error: " + result["error"].replace(str(checkpoint), "checkpoint")
    words = [f"{result[kind]['count']} {kind}" for kind in ("missing", "unexpected", "mismatched")
             if result[kind]["count"]]
    if not result["finite"]:
        words.insert(0, "logits not finite")
    elif result["max_abs_logit_diff"] > tolerance:
        words.insert(0, f"logits off by {result['max_abs_logit_diff']:.2g}")
    else:
        words = words or ["clean"]
        words.append(f"logits within {result['max_abs_logit_diff']:.1e}")
    return ", ".join(words)


# Judging


def judge(stack, fixture, target, conversion, text):
    """(verdict, the text of the cell, a note on it); the verdict is "ok", "limit", "refused" or "FAIL"."""
    refusal = next((finding for name, targets, finding in limits.REFUSALS
                    if name == fixture and target in targets), None)
    limit = next((row for row in limits.LIMITS if row[:2] == (stack, fixture)), None)
    if "failed" in conversion:
        return "FAIL", "not converted, " + conversion["failed"], ""
    if "refused" in conversion:
        text = "refused: " + conversion["refused"]
        if refusal is None:
            return "FAIL", text, "expected a conversion"
        return ("refused", text, "") if refusal in text else ("FAIL", text, f"expected the refusal '{refusal}'")
    if refusal is not None:
        return "FAIL", text, f"expected the refusal '{refusal}'"
    if limit is not None:
        _, _, symptom, reason = limit
        if re.search(symptom, text):
            return "limit", text, f"limit of the loader: {reason}"
        return "FAIL", text, f"expected the limit: {reason}"
    return ("ok" if text.startswith("clean, ") else "FAIL"), text, ""


def extra_biases(checkpoint):
    """Biases of linears that have none in Qwen2, counted in the files themselves."""
    names = []
    for file in checkpoint.glob("*.safetensors"):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            names += json.loads(stream.read(length))
    return [name for name in names if re.search(r"\.(o|gate|up|down)_proj\.bias$", name)]


def counter_proofs(rows):
    """Failures of the proof that a loader with a faulty checkpoint in front of it shows the fault."""
    failures = []
    fixture, biases = limits.EXTRA_BIASES
    stored = len(extra_biases(FIXTURES / fixture / "checkpoint"))
    if stored != biases:
        failures.append(f"{fixture} holds {stored} extra biases, expected {biases}")
    for fixture, stacks, symptom in limits.COUNTER_PROOFS:
        for row in rows:
            if row["fixture"] == fixture and row["stack"] in stacks and not re.search(symptom, row["before"]["text"]):
                failures.append(f"{fixture} untouched in {row['stack']}: '{row['before']['text']}', "
                                f"expected '{symptom}'")
    return failures


# The table


def run_stack(stack, fixtures, conversions):
    """The rows of a stack."""
    target, tolerance = limits.STACKS[stack]["target"], limits.STACKS[stack]["tolerance"]
    folders = {("before", fixture): FIXTURES / fixture / "checkpoint" for fixture in fixtures}
    folders |= {("after", fixture): conversions[fixture, target]["folder"] for fixture in fixtures
                if "folder" in conversions[fixture, target]}
    loaded = load_all(stack, ["load_one.py", stack], [(folder, FIXTURES / fixture / "expected.safetensors")
                                                      for (_, fixture), folder in folders.items()])
    results = dict(zip(folders, loaded))
    texts = {key: describe(results[key], folders[key], tolerance) for key in folders}
    rows = []
    for fixture in fixtures:
        before, after = ("before", fixture), ("after", fixture)
        verdict, text, note = judge(stack, fixture, target, conversions[fixture, target], texts.get(after))
        rows.append({
            "fixture": fixture, "stack": stack, "target": target,
            "before": {"text": texts[before], "result": results[before]},
            "after": {"text": text, "note": note, "verdict": verdict, "result": results.get(after)},
        })
    return rows


def with_note(text, note):
    return f"{text} ({note})" if note else text


def brief(text):
    """A cell in a word or two: "clean 5.7e-06", "8 unexpected", "refused [layout]"; errors by what matters."""
    for pattern, words in BRIEF:
        found = re.search(pattern, text)
        if found:
            return words.format(*found.groups())
    return shortened(text)


def markdown(rows, stacks):
    """One row a fixture, one column a stack: what the untouched fixture did -> what the converted one does."""
    lines = ["| fixture | " + " | ".join(stacks) + " |", "|---" * (len(stacks) + 1) + "|"]
    for fixture in sorted({row["fixture"] for row in rows}):
        cells = [fixture]
        for row in (row for row in rows if row["fixture"] == fixture):
            after, note = brief(row["after"]["text"]), row["after"]["note"]
            after = {"ok": "**" + after + "**", "limit": f"{after} ({note})", "FAIL": "FAIL " + after}.get(row["after"]["verdict"], after)
            cells.append((brief(row["before"]["text"]) + " → " + after).replace("|", "\\|"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def chosen(given, known, what):
    names = given.split(",") if given else list(known)
    for name in names:
        if name not in known:
            print(f"run.py: unknown {what} '{name}', expected one of {', '.join(known)}", file=sys.stderr)
            sys.exit(2)
    return names


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--stacks", metavar="LIST", help="comma-separated, default: all")
    parser.add_argument("--fixtures", metavar="LIST", help="comma-separated, default: all")
    parser.add_argument("--tool", type=pathlib.Path, default=PROJECT / "build" / "bin" / "qwen2-convert")
    parser.add_argument("--markdown", type=pathlib.Path, metavar="FILE", help="write the table there as well")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write everything measured there")
    return parser.parse_args()


def main():
    arguments = options()
    known = sorted(path.parent.name for path in FIXTURES.glob("*/checkpoint"))
    if not os.access(arguments.tool, os.X_OK):
        print(f"run.py: no program '{arguments.tool}', build it or give --tool=FILE", file=sys.stderr)
        return 2
    stacks = chosen(arguments.stacks, limits.STACKS, "stack")
    fixtures = chosen(arguments.fixtures, known, "fixture")
    targets = sorted({limits.STACKS[stack]["target"] for stack in stacks})
    (STACK_DIR / "home" / "tmp").mkdir(parents=True, exist_ok=True)

    rows = []
    with tempfile.TemporaryDirectory(prefix="qwen2-interop-") as scratch:
        conversions = convert_all(arguments.tool, fixtures, targets, pathlib.Path(scratch))
        for stack in stacks:
            started = time.monotonic()
            rows += run_stack(stack, fixtures, conversions)
            print(f"{stack}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    rows.sort(key=lambda row: (row["fixture"], stacks.index(row["stack"])))

    failures = [f"{row['fixture']} in {row['stack']}: {with_note(row['after']['text'], row['after']['note'])}"
                for row in rows if row["after"]["verdict"] == "FAIL"] + counter_proofs(rows)
    table = markdown(rows, stacks)
    print(table)
    counts = {name: sum(row["after"]["verdict"] == name for row in rows) for name in ("ok", "limit", "refused", "FAIL")}
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    for failure in failures:
        print(f"run.py: {failure}", file=sys.stderr)
    if arguments.markdown:
        arguments.markdown.write_text(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"schema": 1, "rows": rows, "failures": failures}, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
