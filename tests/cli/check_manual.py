#!/usr/bin/python3
"""--help, the manual pages and the completions of the programs, used as people use them.

    check_manual.py CONVERT AUDIT ZOO

Every option of --help=all is in the manual page and in each completion; --help fits a screen; the page is free of complaints
(mandoc, where it is installed); bash completes options, values and commands; zsh and fish, where installed, can read theirs.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

SCREEN = 50  # lines


def need(condition, text):
    if not condition:
        sys.exit(f"check_manual.py: {text}")


def text_of(program, form):
    return subprocess.run([program, f"--help{form}"], capture_output=True, text=True, check=True).stdout


def bash_completes(script, name, words):
    """What bash offers behind these words; '=' is a word of its own to it."""
    code = f'source "$1"; COMP_WORDS=("${{@:2}}"); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); compopt() {{ :; }}; _{name.replace("-", "_")}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return subprocess.run(["bash", "-c", code, "bash", script, *words], capture_output=True, text=True, check=True).stdout.split()


def check(program):
    name = program.name
    everything = text_of(program, "=all")
    options = re.findall(r"^  (?:-\w \[ )?--([a-z0-9-]+)(?![a-z0-9,-])", everything, re.M)
    need(len(options) > 10 and len(set(options)) == len(options), f"{name}: options {options}")
    need(len(text_of(program, "").splitlines()) <= SCREEN, f"{name} --help does not fit a screen")
    forms = {form: text_of(program, f"={form}") for form in ("man", "bash", "zsh", "fish")}
    for option in options:
        need(f"--{option}".replace("-", "\\-") in forms["man"], f"{name}: --{option} is not in the manual page")
        need(f"--{option}" in forms["bash"] and f"--{option}" in forms["zsh"] and f" -l {option} " in forms["fish"], f"{name}: --{option} is not completed")
    with tempfile.TemporaryDirectory() as folder:
        paths = {form: pathlib.Path(folder) / f"{name}.{form}" for form in forms}
        for form, text in forms.items():
            paths[form].write_text(text)
        if mandoc := shutil.which("mandoc"):
            lint = subprocess.run([mandoc, "-T", "lint", "-W", "warning", paths["man"]], capture_output=True, text=True)
            complaints = [line for line in lint.stdout.splitlines() if "missing date" not in line]
            need(not complaints, f"{name}: {complaints}")
        for shell, form in (("bash", "bash"), ("zsh", "zsh"), ("fish", "fish")):
            if binary := shutil.which(shell):
                done = subprocess.run([binary, "-n", paths[form]], capture_output=True, text=True)
                need(done.returncode == 0, f"{name}: {shell}: {done.stderr}")
        need("--jobs=" in bash_completes(paths["bash"], name, [name, "--jo"]), f"{name}: bash does not complete --jo")
        if name == "qwen2-zoo":
            need(bash_completes(paths["bash"], name, [name, "re"]) == ["report", "retry"], "qwen2-zoo: bash does not complete commands")
        else:
            need("transformers-4.x" in bash_completes(paths["bash"], name, [name, "--target", "=", "tr"]), f"{name}: bash does not complete --target=tr")
            need("v1" in bash_completes(paths["bash"], name, [name, "--zeros", "="]), f"{name}: bash does not complete --zeros=")
        done = subprocess.run([program, "--help=tex"], capture_output=True, text=True)
        need(done.returncode == 2 and "[usage]" in done.stderr, f"{name} --help=tex: exit {done.returncode}")
    print(f"{name}: {len(options)} options in help, manual page and completions")


for path in sys.argv[1:]:
    check(pathlib.Path(path))
