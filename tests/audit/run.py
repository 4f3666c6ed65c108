#!/usr/bin/python3
"""Holds qwen2-audit against broken and good checkpoints; see README.md beside this file.

    run.py --binary=PATH --convert=PATH [PART...]     (default: every part)

Prints a line for each failure, then 'PART: N passed, N failed'; exits 1 if any failed.
"""

import argparse
import html.parser
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
sys.path += [str(PROJECT / "scripts" / "fixtures"), str(PROJECT / "tests" / "malformed"), str(PROJECT / "tests" / "interop")]

import forecast  # noqa: E402
import make_bad  # noqa: E402

FIXTURES = PROJECT / "fixtures"
FINDING_ID = re.compile(r"\[[a-z0-9]+(-[a-z0-9]+)*\]")


class Results:
    def __init__(self, part):
        self.part, self.passed, self.failed = part, 0, 0

    def check(self, ok, what):
        if ok:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAIL {self.part}: {what}", flush=True)
        return ok

    def end(self):
        print(f"{self.part}: {self.passed} passed, {self.failed} failed", flush=True)
        return self.failed == 0


def fixtures():
    return sorted(path.parent for path in FIXTURES.glob("**/checkpoint"))


def label(fixture):
    return fixture.relative_to(FIXTURES).as_posix()


def audit(tools, folder, *options, timeout=120):
    """(exit code, document or None, stderr)"""
    run = subprocess.run([tools.binary, folder, "--json", *options], capture_output=True, timeout=timeout, check=False)
    try:
        document = json.loads(run.stdout)
    except ValueError:
        document = None
    return run.returncode, document, run.stderr.decode(errors="replace")


def ids(document):
    return {finding["id"] for finding in document.get("findings", [])}


def table_of(tools):
    run = subprocess.run([tools.binary, "--list-findings", "--json"], capture_output=True, check=True)
    return {row["id"]: row for row in json.loads(run.stdout)["findings"]}


# ---- parts ----

def part_table(tools):
    results = Results("table")
    table = table_of(tools)
    rows = {row[0]: row for row in make_bad.TABLE}
    for id in sorted(table.keys() - rows.keys() - make_bad.WITHOUT.keys()):
        results.check(False, f"{id}: has no broken checkpoint in scripts/fixtures/make_bad.py")
    for id in sorted((rows.keys() | make_bad.WITHOUT.keys()) - table.keys()):
        results.check(False, f"{id}: is not in the program's table")
    exits = {row["id"]: row["exit"] for row in table.values()}
    with tempfile.TemporaryDirectory(prefix="qwen2-audit-") as scratch:
        for id, row in rows.items():
            if id not in table:
                continue
            folder = make_bad.make(row, pathlib.Path(scratch))
            code, document, stderr = audit(tools, folder, "--read-data", *make_bad.OPTIONS.get(id, []))
            found = ids(document) if document else set()
            results.check(id in found, f"{id}: does not fire; exit {code}, found {sorted(found)} {stderr[:200]}")
            severe = table[id]["severity"] != "note"
            results.check(not severe or code in {exits[i] for i in found if i in exits and table[i]["severity"] != "note"}, f"{id}: exit {code}")
            shutil.rmtree(folder)
    page = (PROJECT / "verify" / "findings.md").read_text()
    listed = subprocess.run([tools.binary, "--list-findings=markdown"], capture_output=True, text=True, check=True).stdout
    results.check(page == listed, "verify/findings.md is not what --list-findings=markdown prints")
    refused = re.compile(r'\b(?:Malformed|Refused|Fail)\((?:[^;"]*?, )?"([a-z0-9]+(?:-[a-z0-9]+)*)"')
    # Of conversions only; of keys and signatures, which are a run of their own.
    elsewhere = {"drop-needed", "hardlink", "target-conflict", "gguf-config", "quant-offset", "zstd", "key", "key-type", "signature", "signature-version"}
    for source in sorted((PROJECT / "formats").rglob("*.cc")):
        for id in sorted(set(refused.findall(source.read_text())) - table.keys() - elsewhere):
            results.check(False, f"{source.relative_to(PROJECT)}: refuses with '{id}', which is not in verify/findings_table.cc")
    return results.end()


def part_fixtures(tools):
    results = Results("fixtures")
    expected = json.loads((HERE / "expected.json").read_text())
    for fixture in fixtures():
        code, document, stderr = audit(tools, fixture / "checkpoint", "--read-data")
        if not results.check(document is not None, f"{label(fixture)}: no document; exit {code} {stderr[:200]}"):
            continue
        want = expected.get(label(fixture))
        results.check(sorted(ids(document)) == want, f"{label(fixture)}: found {sorted(ids(document))}, expected {want}")
        worst = any(finding["severity"] != "note" for finding in document["findings"])
        results.check((code != 0) == worst, f"{label(fixture)}: exit {code}")
    return results.end()


def targets(tools):
    run = subprocess.run([tools.convert, "--list-targets"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in run.stdout.splitlines() if re.match(r"^[a-z]", line)]


def part_converted(tools):
    results = Results("converted")
    with tempfile.TemporaryDirectory(prefix="qwen2-audit-") as scratch:
        pairs = [(fixture, target) for fixture in fixtures() for target in targets(tools)]
        for fixture, target in pairs[::tools.every]:
            out = pathlib.Path(scratch) / "out"
            run = subprocess.run([tools.convert, fixture / "checkpoint", out, f"--target={target}", "--allow-rounding", "--verify=none", "--quiet"], capture_output=True, text=True, check=False)
            if run.returncode != 0:
                continue
            code, document, stderr = audit(tools, out, "--read-data", "--check-manifest", f"--target={target}")
            worse = [f"{f['id']}: {f['message']}" for f in document["findings"] if f["severity"] != "note"] if document else [stderr]
            results.check(code == 0, f"{label(fixture)} for {target}: exit {code}, {worse}")
            shutil.rmtree(out)
    return results.end()


def part_forecast(tools):
    results = Results("forecast")
    seen = json.loads(forecast.SEEN.read_text())
    with tempfile.TemporaryDirectory(prefix="qwen2-audit-") as scratch:
        for fixture, stack, which, predicted, verdict, reason, text in forecast.compare(seen, forecast.Forecasts(tools.binary, tools.convert, pathlib.Path(scratch))):
            results.check(predicted == verdict, f"{fixture} {which} in {stack}: predicted {predicted} ({reason}), seen '{text}'")
    return results.end()


def part_malformed(tools):
    spec = importlib.util.spec_from_file_location("malformed_run", PROJECT / "tests" / "malformed" / "run.py")
    malformed = importlib.util.module_from_spec(spec)  # the tables and the runner
    spec.loader.exec_module(malformed)

    results = Results("malformed")
    with tempfile.TemporaryDirectory(prefix="qwen2-audit-") as scratch:
        root = pathlib.Path(scratch)
        bases = malformed.Bases(tools.convert, root / "bases")
        (root / "bases").mkdir()
        for case, box in malformed.damaged(bases, root, tools.every):
            name = f"{case.id} {case.name}"
            before = malformed.snapshot(box.root)
            code, out, err, seconds, mib = malformed.run([tools.binary, box.input, "--read-data", "--json"], box)
            results.check(code in (0, 1, 2, 3, 65, 69, 74, 75, 77), f"{name}: exit {code} {str(err)[-200:]}")
            if not tools.no_limits:
                results.check(seconds <= max(5, case.seconds), f"{name}: {seconds:.1f} s")
                results.check(mib <= max(256, case.memory_mib), f"{name}: {mib:.0f} MiB")
            try:
                document = json.loads(out.decode(errors="replace"))
            except ValueError:
                document = None
            said = document is not None and ("findings" in document or "error" in document)
            results.check(said, f"{name}: exit {code}, no document: {str(err)[-200:]}")
            of_target = case.base == "mlx" and case.expected()[0] == 69  # refused by the target of the conversion
            if said and case.expected()[0] in (65, 69) and not of_target and "--drop" not in " ".join(map(str, box.options)):
                errors = [f for f in document.get("findings", []) if f["severity"] != "note"] or document.get("error")
                results.check(bool(errors) and code != 0, f"{name}: exit {code}, nothing is said of it")
            difference = malformed.difference(before, malformed.snapshot(box.root))
            results.check(difference is None, f"{name}: {difference}")
    return results.end()


class Page(html.parser.HTMLParser):
    """What a report may not hold."""

    def __init__(self):
        super().__init__()
        self.tags, self.bad = set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag in ("script", "link", "img", "iframe", "object", "embed", "a"):
            self.bad.append(tag)
        for key, value in attributes:
            if key.startswith("on") or key in ("src", "href", "srcset") or "url(" in (value or ""):
                self.bad.append(f"{tag} {key}")


MARKUP = "<img src=x onerror=alert(1)>\"'&"


def part_formats(tools):
    import jsonschema

    results = Results("formats")
    own = json.loads((PROJECT / "verify" / "audit.schema.json").read_text())
    sarif = json.loads((HERE / "sarif.schema.json").read_text())
    with tempfile.TemporaryDirectory(prefix="qwen2-audit-") as scratch:
        root = pathlib.Path(scratch)
        folders = [FIXTURES / name / "checkpoint" for name in ("published-int4-g128-sharded", "autogptq-0.7.1-int4-g32-asym-wrapped-zeros", "resaved-transformers-5.23-int4-g128", "foreign/llama.cpp-q4_0")]
        marked = root / "mark <b>up"
        shutil.copytree(FIXTURES / "published-int8-g128-tied" / "checkpoint", marked)
        make_bad.config(model_type="qwen2", architectures=["Qwen2ForCausalLM"], _name_or_path="/" + MARKUP, eos_token_id=10 ** 9)(marked)
        make_bad.quant(dataset=MARKUP)(marked)
        make_bad.tensors(lambda t: t.update({"model." + MARKUP: ("F16", [1], b"\0\0")}))(marked)
        folders.append(marked)
        for folder in folders:
            for options in ([], ["--read-data"]):
                _, document, stderr = audit(tools, folder, *options)
                if results.check(document is not None, f"{folder}: no document {stderr[:200]}"):
                    for error in jsonschema.Draft202012Validator(own).iter_errors(document):
                        results.check(False, f"{folder}: JSON {'/'.join(map(str, error.path))}: {error.message[:200]}")
            run = subprocess.run([tools.binary, folder, "--sarif"], capture_output=True, check=False)
            for error in jsonschema.Draft7Validator(sarif).iter_errors(json.loads(run.stdout)):
                results.check(False, f"{folder}: SARIF {'/'.join(map(str, error.path))}: {error.message[:200]}")
            report = root / "report.html"
            subprocess.run([tools.binary, folder, "--read-data", f"--report={report}"], capture_output=True, check=False)
            text = report.read_text()
            page = Page()
            page.feed(text)
            page.close()
            results.check(not page.bad, f"{folder}: the report holds {page.bad}")
            results.check("svg" in page.tags, f"{folder}: the report has no plot")
            results.check(len(text) < 200_000, f"{folder}: the report has {len(text)} bytes")
            report.unlink()
        run = subprocess.run([tools.binary, *folders, "--json"], capture_output=True, check=False)
        for error in jsonschema.Draft202012Validator(own).iter_errors(json.loads(run.stdout)):
            results.check(False, f"all: JSON {'/'.join(map(str, error.path))}: {error.message[:200]}")
    return results.end()


PARTS = {"table": part_table, "fixtures": part_fixtures, "converted": part_converted, "forecast": part_forecast, "malformed": part_malformed, "formats": part_formats}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--convert", required=True)
    parser.add_argument("--no-limits", action="store_true", help="a sanitizer needs memory of its own")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only one in N conversions and malformed inputs")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS])
    tools = parser.parse_args()
    passed = [PARTS[part](tools) for part in tools.parts or PARTS]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
