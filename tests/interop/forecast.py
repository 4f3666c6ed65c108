#!/usr/bin/env python3
"""Holds the forecast of qwen2-audit against what the real loaders did: predicted beside seen, for every fixture.

    forecast.py [--results=FILE] [--record] [--audit=FILE] [--tool=FILE] [--markdown=FILE]

FILE of --results is what run.py wrote with --json; without it the recorded results are taken (seen.json), so that no
loader needs to be installed. --record writes seen.json anew from --results. Exit code 0 if every verdict agrees.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
FIXTURES = PROJECT / "fixtures"
SEEN = HERE / "seen.json"
NOT_RUN = "not run"


def verdict_of(text):
    """What a cell of run.py's table means, in the words of the forecast."""
    if text.startswith("clean"):
        return "clean"
    if re.match(r"\d+ unexpected", text):
        return "reports"
    return "wrong" if re.match(r"logits|NaN|\d+ missing", text) else "refuses"


def seen_from(results):
    """The rows of run.py's document, as seen.json keeps them; what was not converted has no second verdict."""
    rows = []
    for row in results["rows"]:
        converted = row["after"]["result"] is not None
        rows.append({"fixture": row["fixture"], "stack": row["stack"], "before": row["before"]["text"],
                     "after": row["after"]["text"] if converted else "refused"})
    return {"targets": {row["stack"]: row["target"] for row in results["rows"]}, "rows": rows}


def write_seen(seen):
    lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in seen["rows"])
    note = "What tests/interop/run.py saw in the loaders; the forecast of qwen2-audit is held against it (forecast.py)."
    SEEN.write_text('{\n "note": ' + json.dumps(note) + ',\n "targets": ' + json.dumps(seen["targets"]) + ',\n "rows": [\n' + lines + "\n ]\n}\n")


class Forecasts:
    """Verdicts of the audit, by folder; conversions are made when they are asked for."""

    def __init__(self, audit, tool, scratch):
        self.audit, self.tool, self.scratch, self.known = audit, tool, scratch, {}

    def of(self, folder, stack):
        if folder not in self.known:
            out = subprocess.run([self.audit, folder, "--json"], capture_output=True, check=False).stdout
            self.known[folder] = {row["loader"]: row for row in json.loads(out)["forecast"]}
        return self.known[folder][stack]

    def converted(self, fixture, target, stack):
        out = self.scratch / f"{fixture}@{target}"
        if not out.exists():
            subprocess.run([self.tool, FIXTURES / fixture / "checkpoint", out, f"--target={target}", "--verify=none", "--quiet"], check=True)
        return self.of(out, stack)


def compare(seen, forecasts):
    """[(fixture, stack, "untouched" or "converted", predicted, seen, reason, text)]"""
    rows = []
    for row in seen["rows"]:
        fixture, stack = row["fixture"], row["stack"]
        if row["before"] != NOT_RUN:
            forecast = forecasts.of(FIXTURES / fixture / "checkpoint", stack)
            rows.append((fixture, stack, "untouched", forecast["verdict"], verdict_of(row["before"]), forecast["reason"], row["before"]))
        if not row["after"].startswith("refused") and row["after"] != NOT_RUN:
            forecast = forecasts.converted(fixture, seen["targets"][stack], stack)
            rows.append((fixture, stack, "converted", forecast["verdict"], verdict_of(row["after"]), forecast["reason"], row["after"]))
    return rows


def markdown(rows):
    lines = ["| fixture | stack | | predicted | seen | why | the loader's words |", "|---|---|---|---|---|---|---|"]
    for fixture, stack, which, predicted, seen, reason, text in rows:
        mark = predicted if predicted == seen else f"**{predicted}**"
        cells = (fixture, stack, which, mark, seen, reason, text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--results", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--audit", type=pathlib.Path, default=PROJECT / "build" / "bin" / "qwen2-audit")
    parser.add_argument("--tool", type=pathlib.Path, default=PROJECT / "build" / "bin" / "qwen2-convert")
    parser.add_argument("--markdown", type=pathlib.Path, metavar="FILE")
    arguments = parser.parse_args()
    seen = seen_from(json.loads(arguments.results.read_text())) if arguments.results else json.loads(SEEN.read_text())
    if arguments.record:
        write_seen(seen)
    with tempfile.TemporaryDirectory(prefix="qwen2-forecast-") as scratch:
        rows = compare(seen, Forecasts(arguments.audit, arguments.tool, pathlib.Path(scratch)))
    table = markdown(rows)
    print(table)
    if arguments.markdown:
        arguments.markdown.write_text(table)
    agree = sum(row[3] == row[4] for row in rows)
    print(f"{agree} of {len(rows)} verdicts agree")
    return 0 if agree == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
