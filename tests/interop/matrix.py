#!/usr/bin/env python3
"""Converts every fixture for every target and has the outputs read by the libraries they are for.

    matrix.py [--stacks=LIST] [--targets=LIST] [--fixtures=LIST] [--fixtures-in=FOLDER] [--tool=FILE]
              [--markdown=FILE] [--summary=FILE] [--json=FILE]

For each pair: what came out, or the reason of the refusal; how exact it is, by the manifest; its size; and what each
library says. Exit code 0 if every refusal is one that limits.py derives from the fixture, nothing else was refused
and no library disagrees; 1 if not; 2 for a wrong call.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
import limits  # noqa: E402
import run  # noqa: E402

EXACTNESS = ["same-bytes", "same-codes", "same-values", "rounded"]  # best first; a folder is as good as its worst
ROUNDING = "[rounding]"


def facts_of(fixtures, stack):
    """By fixture, as facts.py sees them in a stack's Python, which has numpy."""
    folders = [run.FIXTURES / fixture for fixture in fixtures]
    done = subprocess.run([run.STACK_DIR / stack / "bin" / "python", run.HERE / "facts.py", *folders],
                          stdout=subprocess.PIPE, text=True, check=True,
                          env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    return json.loads(done.stdout)


# Conversion


def converted(tool, fixture, target, scratch):
    """run.convert's answer; where values would be rounded, that of a second call that allows it, with "rounded"."""
    checkpoint, out = run.FIXTURES / fixture / "checkpoint", scratch / f"{target}@{fixture}"
    answer = run.convert(tool, checkpoint, out, target)
    if ROUNDING in answer.get("refused", ""):
        answer = {**run.convert(tool, checkpoint, out, target, "--allow-rounding"), "rounded": answer["refused"]}
    if "folder" in answer:
        manifest = json.loads((out / "qwen2-convert.manifest.json").read_text())
        answer["exactness"] = max((tensor["exactness"] for tensor in manifest["tensors"]), key=EXACTNESS.index)
        answer["bytes"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return answer


def expected_refusals(facts, target):
    """The findings that may stand in the refusal; none if there must be an output."""
    always = [finding for finding, holds in limits.REFUSES_ALWAYS if holds(facts)]
    if always or facts["container"] == "gguf" or facts["fractional"] or facts["embeddings"]:
        return always
    return [finding for finding, holds in limits.REFUSES[target] if holds(facts)]


def conversion_failure(facts, target, answer):
    """What is wrong with the answer, or ""."""
    if target not in limits.REFUSES:
        return "limits.py has no rule for this target"
    if "failed" in answer:
        return answer["failed"]
    wanted = expected_refusals(facts, target)
    # Sources that the rules do not cover: GGUF, offsets that are no whole zero points, quantised embeddings.
    unruled = not wanted and (facts["container"] == "gguf" or facts["fractional"] or facts["embeddings"])
    if "refused" in answer:
        if unruled or any(finding in answer["refused"] for finding in wanted):
            return ""
        return "expected " + (f"the refusal {wanted[0]}" if wanted else "a conversion")
    if wanted:
        return f"expected the refusal {wanted[0]}"
    rounds = limits.ROUNDS.get(target, lambda facts: False)
    if answer["exactness"] == "rounded" and not unruled and not rounds(facts):
        return "rounded, expected the exact values"
    return ""


# Judging


def judge_all(name, facts, cells):
    """Adds the judge's verdict on each of its cells; a verdict has "verdict", "text" and "note"."""
    program, stack, targets = limits.JUDGES[name]
    mine = [cell for cell in cells if cell["target"] in targets and "folder" in cell["answer"]]
    pairs = [(cell["answer"]["folder"], run.FIXTURES / cell["fixture"]) for cell in mine]
    for cell, result in zip(mine, run.load_all(stack, [program], pairs)):
        verdict, note = result.get("verdict", "FAIL"), ""
        text = (result.get("text") or result["error"]).replace(str(cell["answer"]["folder"]), "OUT")
        limit = next((row for row in limits.JUDGE_LIMITS
                      if row[0] == name and row[1](cell["target"], facts[cell["fixture"]])), None)
        if limit is not None and verdict != "not run":
            if verdict == "FAIL" and re.search(limit[2], text):
                verdict, note = "limit", f"limit of the library: {limit[3]}"
            else:
                verdict, note = "FAIL", f"expected the limit: {limit[3]}"
        differs, symptom = limits.MAY_DIFFER
        if verdict == "FAIL" and differs(cell["target"], facts[cell["fixture"]]) and re.search(symptom, text):
            verdict, note = "limit", "the source's offsets are no whole zero points"
        cell["judges"][name] = {"verdict": verdict, "text": text, "note": note, "seconds": result.get("seconds")}


# The table


def shown(name, judgement):
    text = run.with_note(run.shortened(judgement["text"]), judgement["note"])
    return f"{name}: " + {"ok": text, "FAIL": f"**FAIL** {text}"}.get(judgement["verdict"],
                                                                    f"{judgement['verdict']}, {text}")


def row_of(cell):
    answer = cell["answer"]
    if "folder" in answer:
        result = "converted" + (" with --allow-rounding" if "rounded" in answer else "")
        fields = [result, answer["exactness"], str(answer["bytes"])]
    else:
        text = answer.get("refused") or answer["failed"]
        finding = re.search(r"\[[a-z0-9-]+\]", text)
        fields = ["refused " + (finding.group() if finding else "") + ": " + run.shortened(text.split(" [")[0]), "", ""]
    if cell["failure"]:
        fields[0] = f"**FAIL** {fields[0]} ({cell['failure']})"
    said = "; ".join(shown(name, judgement) for name, judgement in cell["judges"].items())
    return [cell["fixture"], cell["target"], *fields, said]


def markdown(cells):
    head = ["fixture", "target", "result", "exactness", "bytes", "the libraries"]
    rows = [head, ["---"] * len(head), *map(row_of, cells)]
    return "".join("| " + " | ".join(field.replace("|", "\\|") for field in row) + " |\n" for row in rows)


def brief(cell):
    """A cell in a word or two: how exact, and of how many libraries that judged it all were content."""
    if "folder" not in cell["answer"]:
        return "–"
    words = cell["answer"]["exactness"].removeprefix("same-")
    verdicts = [judgement["verdict"] for judgement in cell["judges"].values() if judgement["verdict"] != "not run"]
    good = verdicts.count("ok")
    if "FAIL" in verdicts or cell["failure"]:
        return f"{words} FAIL"
    return words + (f" ✓{good}" if good else "") + (" (limit)" if "limit" in verdicts else "")


def summary(cells):
    """One row a fixture, one column a target."""
    targets = list(dict.fromkeys(cell["target"] for cell in cells))
    lines = ["| fixture | " + " | ".join(targets) + " |", "|---" * (len(targets) + 1) + "|"]
    for fixture in dict.fromkeys(cell["fixture"] for cell in cells):
        by_target = {cell["target"]: brief(cell) for cell in cells if cell["fixture"] == fixture}
        lines.append("| " + " | ".join([fixture, *(by_target[target] for target in targets)]) + " |")
    return "\n".join(lines) + "\n"


def failures_of(cells):
    for cell in cells:
        where = f"{cell['fixture']} for {cell['target']}"
        if cell["failure"]:
            refused = cell["answer"].get("refused")
            yield f"{where}: {cell['failure']}" + (f"; got {refused}" if refused else "")
        for name, judgement in cell["judges"].items():
            if judgement["verdict"] == "FAIL":
                yield f"{where}, {name}: {run.with_note(judgement['text'], judgement['note'])}"


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--matrix", action="store_true", help=argparse.SUPPRESS)  # interop.sh's own word
    parser.add_argument("--stacks", metavar="LIST", help="whose libraries judge; default: all")
    parser.add_argument("--targets", metavar="LIST", help="default: all")
    parser.add_argument("--fixtures", metavar="LIST", help="default: all")
    parser.add_argument("--fixtures-in", type=pathlib.Path, metavar="FOLDER", default=run.FIXTURES,
                        help="where they are; default: fixtures/")
    parser.add_argument("--tool", type=pathlib.Path, default=run.PROJECT / "build" / "bin" / "qwen2-convert")
    parser.add_argument("--markdown", type=pathlib.Path, metavar="FILE", help="write the table there as well")
    parser.add_argument("--summary", type=pathlib.Path, metavar="FILE", help="write one row a fixture there")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write everything there")
    return parser.parse_args()


def main():
    arguments = options()
    run.FIXTURES = arguments.fixtures_in
    if not os.access(arguments.tool, os.X_OK):
        print(f"matrix.py: no program '{arguments.tool}', build it or give --tool=FILE", file=sys.stderr)
        return 2
    listed = subprocess.run([arguments.tool, "--list-targets"], stdout=subprocess.PIPE, text=True, check=True).stdout
    known = [line.split()[0] for line in listed.splitlines() if line and not line[0].isspace()]
    stacks = run.chosen(arguments.stacks, dict.fromkeys(stack for _, stack, _ in limits.JUDGES.values()), "stack")
    targets = run.chosen(arguments.targets, known, "target")
    bundled = sorted(path.parent.name for path in run.FIXTURES.glob("*/checkpoint"))
    fixtures = run.chosen(arguments.fixtures, bundled, "fixture")
    (run.STACK_DIR / "home" / "tmp").mkdir(parents=True, exist_ok=True)
    facts = facts_of(fixtures, stacks[0])
    with tempfile.TemporaryDirectory(prefix="qwen2-matrix-") as scratch:
        cells = []
        for fixture in fixtures:
            for target in targets:
                answer = converted(arguments.tool, fixture, target, pathlib.Path(scratch))
                failure = conversion_failure(facts[fixture], target, answer)
                cells.append({"fixture": fixture, "target": target, "answer": answer, "failure": failure, "judges": {}})
        for name, (_, stack, _) in limits.JUDGES.items():
            if stack in stacks:
                started = time.monotonic()
                judge_all(name, facts, cells)
                print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    table, failures = markdown(cells), list(failures_of(cells))
    print(table)
    verdicts = [judgement["verdict"] for cell in cells for judgement in cell["judges"].values()]
    print(f"{sum('folder' in cell['answer'] for cell in cells)} converted, "
          f"{sum('refused' in cell['answer'] for cell in cells)} refused; " +
          ", ".join(f"{verdicts.count(word)} {word}" for word in ("ok", "limit", "not run", "FAIL")))
    for failure in failures:
        print(f"matrix.py: {failure}", file=sys.stderr)
    if arguments.markdown:
        arguments.markdown.write_text(table)
    if arguments.summary:
        arguments.summary.write_text(summary(cells))
    if arguments.json:
        arguments.json.write_text(json.dumps({"schema": 1, "cells": cells, "failures": failures}, indent=1,
                                             default=str) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
