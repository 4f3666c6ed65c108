#!/usr/bin/python3
"""Runs the command-line cases; the format is described in README.md.

    run.py [--binary=PATH] [--update] [CASE...]

Prints a line for each failure, ends with 'N passed, N failed', exits 1 if any failed.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TIMEOUT_SECONDS = 120
LINE = re.compile(r"(setup|exit|check|stdout|stderr)(:|!~|~)(?: (.*))?$")


class Command:
    """One '$' line and what is said about it."""

    def __init__(self, setups, shell):
        self.setups, self.shell = setups, shell
        self.exit = 0
        self.checks = []
        self.literal = {"stdout": None, "stderr": None}
        self.patterns = []  # (stream, wanted, regex)


def parse(path):
    commands, setups = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = LINE.match(line)
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("$ "):
            commands.append(Command(setups, line[2:]))
            setups = []
        elif match and match[1] == "setup" and match[2] == ":":
            setups.append(match[3])
        elif not match or not commands:
            sys.exit(f"{path.name}:{number}: not understood: {line}")
        elif match[1] == "exit":
            commands[-1].exit = int(match[3])
        elif match[1] == "check":
            commands[-1].checks.append(match[3])
        elif match[2] == ":":
            lines = commands[-1].literal[match[1]] or []
            commands[-1].literal[match[1]] = lines if match[3] == "empty" else lines + [match[3] or ""]
        else:
            commands[-1].patterns.append((match[1], match[2] == "~", match[3]))
    if setups:
        sys.exit(f"{path.name}: a setup line at the end")
    return commands


def shell(text, environment, folder):
    return subprocess.run(["bash", "-o", "pipefail", "-c", text], env=environment, cwd=folder, capture_output=True,
                          text=True, errors="backslashreplace", timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL)


def run_command(command, environment, temp):
    """Yields complaints; leaves the literal lines seen in command.seen."""
    for text in command.setups:
        done = shell(text, environment, temp)
        if done.returncode != 0:
            yield f"setup failed: {text}: {done.stderr.strip()}"
            return
    done = shell(command.shell, environment, temp)
    (temp / "stdout").write_text(done.stdout)
    (temp / "stderr").write_text(done.stderr)
    streams = {"stdout": done.stdout.splitlines(), "stderr": done.stderr.splitlines()}
    command.seen = {name: [line.replace(str(temp), "$TMP") for line in lines] for name, lines in streams.items()}
    if done.returncode != command.exit:
        yield f"exit {done.returncode}, expected {command.exit}; stderr: {done.stderr.strip()[:600]}"
        return  # the rest would only repeat it
    for name, lines in command.literal.items():
        if lines is not None and lines != command.seen[name]:
            at = next((i for i, pair in enumerate(zip(lines, command.seen[name])) if pair[0] != pair[1]), min(len(lines), len(command.seen[name])))
            yield f"{name} differs from line {at + 1} on: {command.seen[name][at:at + 1]} instead of {lines[at:at + 1]}"
    for name, wanted, pattern in command.patterns:
        if any(re.search(pattern, line) for line in streams[name]) != wanted:
            yield f"{name} {'does not match' if wanted else 'matches'} '{pattern}': {streams[name][:6]}"
    for text in command.checks:
        checked = shell(text, environment, temp)
        if checked.returncode != 0:
            yield f"check failed: {text}: {(checked.stdout + checked.stderr).strip()[:400]}"


def run_case(path, binary_folder, update):
    """Returns the complaints of one case."""
    temp = pathlib.Path(tempfile.mkdtemp(prefix="qwen2-cli-"))
    keep_out = ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in keep_out}
    environment.update(PATH=f"{binary_folder}:{os.environ['PATH']}", TMP=str(temp), FIX=str(HERE.parents[1] / "fixtures"),
                       HELP=str(HERE / "helper.py"), HOME=str(temp), LC_ALL="C.UTF-8", PYTHONDONTWRITEBYTECODE="1")
    commands, complaints = parse(path), []
    try:
        for command in commands:
            found = [f"$ {command.shell}\n     {complaint}" for complaint in run_command(command, environment, temp)]
            complaints += found
            if found and not update:
                break  # the commands after it build on it
    except subprocess.TimeoutExpired:
        complaints.append(f"took more than {TIMEOUT_SECONDS} s")
    finally:
        shutil.rmtree(temp)
    if update:
        rewrite(path, commands)
    return complaints


def rewrite(path, commands):
    """Puts what was seen in the place of the first literal line of each stream; the others go."""
    out, index, done = [], -1, set()
    for line in path.read_text().splitlines():
        match = LINE.match(line)
        if line.startswith("$ "):
            index += 1
        if not (match and match[1] in ("stdout", "stderr") and match[2] == ":" and hasattr(commands[index], "seen")):
            out.append(line)
        elif (index, match[1]) not in done:
            done.add((index, match[1]))
            out += [f"{match[1]}: {text}" if text else f"{match[1]}:" for text in commands[index].seen[match[1]]] or [f"{match[1]}: empty"]
    path.write_text("\n".join(out) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--binary", default="qwen2-convert")
    parser.add_argument("--update", action="store_true", help="refresh the literal lines")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases, all if none")
    options = parser.parse_args()
    binary = shutil.which(options.binary)
    if binary is None:
        sys.exit(f"no program '{options.binary}'")
    paths = sorted((HERE / "cases").glob("*.case"))
    if options.cases:
        paths = [path for path in paths if path.stem in options.cases]
    failed = 0
    for path in paths:
        complaints = run_case(path, pathlib.Path(binary).absolute().parent, options.update)
        failed += bool(complaints)
        for complaint in complaints:
            print(f"FAIL {path.stem}: {complaint}", flush=True)
    print(f"{len(paths) - failed} passed, {failed} failed")
    return 1 if failed or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
