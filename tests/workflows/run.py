#!/usr/bin/python3
"""Runs the shell blocks of a page as they stand there.

    run.py [--bin=FOLDER] [--stacks=FOLDER] [--page=FILE] [SECTION...]

A section is what a heading "## ..." begins. Its ```sh blocks run in order, in a new folder that holds what SETUP lists.
A block must end with 0, and the lines of the ```text block behind it must be in what it prints, in that order; an
ellipsis (…) stands for anything within a line. The first line of a block may say what it needs:

    # needs stack NAME: ...     a Python environment of tests/interop/stacks.sh; run if --stacks has it
    # needs Slurm: ...          run if one answers
    # needs anything else: ...  never run

Prints a line for each block, ends with 'N run, M not run, F failed', exits 1 if any failed.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
TIMEOUT_SECONDS = 600

# What a section finds: a name in a Hub cache, or a folder; and the fixture it stands for.
SETUP = {
    "hf://Qwen/Qwen2-7B-Instruct-GPTQ-Int4": "published-int4-g128-sharded",
    "IN": "foreign/llama.cpp-q4_0",  # of the issue template; nothing is wrong with it, so that the audit ends with 0
    "resaved": "resaved-transformers-5.23-int4-g128",
    "zoo/qwen2-awq": "gptqmodel-7.7-awq-g64",
    "zoo/qwen2-int4": "published-int4-g128-sharded",
    "zoo/qwen2-int8": "published-int8-g128-tied",
    "zoo/qwen2-resaved": "resaved-transformers-4.57-int4-g32-asym",
}


class Block:
    def __init__(self, section, line, text):
        self.section, self.line, self.text, self.expected = section, line, text, []
        need = re.match(r"# needs ([^:\n]+)", text)
        self.needs = need[1] if need else ""


def blocks_of(page):
    section, blocks, kind, begun, lines = "", [], None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if kind is None and line.startswith("## "):
            section = line[3:]
        elif kind is None and line.startswith("```"):
            kind, begun, lines = line[3:], number, []
        elif kind is not None and line == "```":
            if kind == "sh":
                blocks.append(Block(section, begun, "\n".join(lines)))
            elif kind == "text":
                if not blocks or blocks[-1].section != section or blocks[-1].expected:
                    sys.exit(f"{page}:{begun}: a text block that follows no sh block")
                blocks[-1].expected = lines
            kind = None
        elif kind is not None:
            lines.append(line)
    if kind is not None:
        sys.exit(f"{page}:{begun}: a block without an end")
    return blocks


def lay_out(folder):
    for name, fixture in SETUP.items():
        checkpoint = FIXTURES / fixture / "checkpoint"
        if name.startswith("hf://"):
            subprocess.run([sys.executable, ROOT / "tests/cli/helper.py", "hub", checkpoint, folder / "cache", name[5:]], check=True, stdout=subprocess.DEVNULL)
        else:
            shutil.copytree(checkpoint, folder / name)


def missing(wanted, lines):
    """The first line of `wanted` that does not come in `lines` behind those before it, or None."""
    at = 0
    for line in wanted:
        pattern = re.compile(".*".join(map(re.escape, line.split("…"))))
        at = next((i + 1 for i in range(at, len(lines)) if pattern.fullmatch(lines[i].rstrip())), None)
        if at is None:
            return line
    return None


def has_slurm():
    return shutil.which("sinfo") is not None and subprocess.run(["sinfo"], capture_output=True, timeout=TIMEOUT_SECONDS).returncode == 0


def path_for(block, stacks, path):
    """The PATH that a block is run with, or None if what it needs is not there."""
    if not block.needs or (block.needs == "Slurm" and has_slurm()):
        return path
    kind, _, name = block.needs.partition(" ")
    if kind != "stack" or stacks is None or not (stacks / name / "complete").exists():
        return None
    return f"{stacks / name / 'bin'}:{path}"


def environment_of(folder, binaries):
    keep_out = ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in keep_out}
    # site/: GPTQModel's thread pools want more than the two processors of a small machine.
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text("import os\nos.cpu_count = lambda: 4\n")
    return environment | {"HF_HUB_CACHE": str(folder / "cache"), "HOME": str(folder), "LC_ALL": "C.UTF-8", "PYTHONPATH": str(folder / "site"), "PYTHONDONTWRITEBYTECODE": "1",
                          "HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "QWEN2_CONVERT": str(ROOT), "PATH": f"{binaries}:{os.environ['PATH']}"}


def run_block(block, folder, environment):
    """What is wrong with it, or None."""
    try:
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="backslashreplace", timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"took more than {TIMEOUT_SECONDS} s"
    if done.returncode != 0:
        return f"exit {done.returncode}:\n{done.stdout[-2000:]}"
    line = missing(block.expected, done.stdout.splitlines())
    return f"does not print '{line}' (there), but\n{done.stdout[-3000:]}" if line is not None else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=lambda text: pathlib.Path(text).resolve(), default=ROOT / "build/bin")
    parser.add_argument("--stacks", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--page", type=pathlib.Path, default=ROOT / "convert/workflows.md")
    parser.add_argument("sections", nargs="*", help="beginnings of headings; default: all")
    options = parser.parse_args()
    blocks = [block for block in blocks_of(options.page) if not options.sections or block.section.startswith(tuple(options.sections))]
    counts = {"run": 0, "not run": 0, "failed": 0}
    if not blocks:
        sys.exit(f"no sh block in {options.page} under {options.sections or 'any heading'}")
    for section in dict.fromkeys(block.section for block in blocks):
        print(section)
        with tempfile.TemporaryDirectory(prefix="qwen2-workflows-") as name:
            folder = pathlib.Path(name)
            environment = environment_of(folder, options.bin)
            lay_out(folder)
            for block in (block for block in blocks if block.section == section):
                path = path_for(block, options.stacks, environment["PATH"])
                where = f"  {options.page.name}:{block.line}"
                if path is None:
                    counts["not run"] += 1
                    print(f"{where} not run: needs {block.needs}")
                    continue
                wrong = run_block(block, folder, environment | {"PATH": path})
                counts["failed" if wrong else "run"] += 1
                print(f"{where} {'FAIL: ' + wrong if wrong else 'ok'}", flush=True)
                if wrong:
                    break  # the blocks behind it build on it
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
