#!/usr/bin/python3
"""Holds the transcript in README.md against a fresh one; times and memory may differ.

    transcript.py [FOLDER OF THE PROGRAMS]
"""

import difflib
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND = "scripts/transcript.sh"
MEASURED = re.compile(r"in [\d.]+ s, [\d.]+ [kM]B of memory")


def masked(lines):
    return [MEASURED.sub("in … s, … MB of memory", line.rstrip()) for line in lines]


def shown():
    """The indented lines of the README that follow the paragraph which names the command."""
    _, found, rest = (ROOT / "README.md").read_text().partition(f"`{COMMAND}`")
    block = re.search(r"\n\n((?:    .*\n)+)", rest)
    if not found or block is None:
        sys.exit(f"README.md: no transcript behind the name of {COMMAND}")
    return [line[4:] for line in block[1].splitlines()]


def main():
    fresh = subprocess.run([ROOT / COMMAND, *sys.argv[1:]], check=True, stdout=subprocess.PIPE, text=True).stdout
    difference = list(difflib.unified_diff(masked(shown()), masked(fresh.splitlines()), "README.md", COMMAND, lineterm=""))
    print("\n".join(difference) or "the transcript in README.md is what a fresh run prints")
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
