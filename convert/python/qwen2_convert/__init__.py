"""Rewrites quantised Qwen2 checkpoints for other software, and proves the result.

A thin layer over the programs that are installed with it: each call runs one of them with ``--json``.

    import qwen2_convert
    report = qwen2_convert.convert("in", "out", target="transformers-5.x")
    print(report["exactness"], report["verification"]["result"])
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import threading
from importlib import metadata
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Union

__all__ = [
    "Error", "Mismatch", "UsageError", "NotRun", "Malformed", "Refused", "InternalError", "IoError", "TryAgain", "NoSpace",
    "PermissionDenied", "Interrupted", "Progress", "Report", "convert", "plan", "audit", "run",
]

Path = Union[str, "os.PathLike[str]"]
Report = Dict[str, Any]


class Progress(NamedTuple):
    """What a running conversion tells: the stage it is in, and its bytes, of which the total is an estimate."""

    stage: str
    done: int
    total: int


class Error(Exception):
    """A program ended otherwise than well. ``code`` is its exit code, ``id`` the stable name of what was found."""

    code = 70

    def __init__(self, message: str, id: str = "", code: Optional[int] = None, report: Optional[Report] = None) -> None:
        super().__init__(message)
        self.message = message
        self.id = id
        self.report = report
        if code is not None:
            self.code = code


class Mismatch(Error):
    """What was written is not what was meant; there is no output."""
    code = 1


class UsageError(Error):
    code = 2


class NotRun(Error):
    """A check that was asked for could not be run."""
    code = 3


class Malformed(Error):
    """The input is broken."""
    code = 65


class Refused(Error):
    """The input is sound, but cannot become what was asked for."""
    code = 69


class InternalError(Error):
    code = 70


class IoError(Error):
    code = 74


class TryAgain(Error):
    """Another run writes there, or the input changed meanwhile."""
    code = 75


class NoSpace(Error):
    code = 76


class PermissionDenied(Error):
    code = 77


class Interrupted(Error):
    code = 130


_ERRORS = {error.code: error for error in (Mismatch, UsageError, NotRun, Malformed, Refused, InternalError, IoError, TryAgain, NoSpace, PermissionDenied, Interrupted)}
_ERRORS[143] = Interrupted


def _program(name: str) -> str:
    """The program that was installed with this package, wherever the installer put it; else the one on PATH, for a tree that is not installed."""
    folder = pathlib.Path(__file__).resolve().parent.parent
    for installed in metadata.distributions(name="qwen2-convert", path=[str(folder)]):
        for file in installed.files or ():
            if file.name == name and (path := pathlib.Path(file.locate()).resolve()).is_file():
                return str(path)
    return name


def _words(options: Dict[str, Any]) -> List[str]:
    """shard_size="5GB" -> --shard-size=5GB; True -> the option alone; False, None -> nothing; a list -> the option for each."""
    words = []
    for key, value in options.items():
        name = "--" + key.rstrip("_").replace("_", "-")
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is True:
                words.append(name)
            elif one is not None and one is not False:
                words.append(f"{name}={os.fspath(one) if isinstance(one, os.PathLike) else one}")
    return words


_PROGRESS = re.compile(r"progress: (.+), (\d+) of (\d+) bytes\n")
_ERROR = re.compile(r"[\w-]+: error: (.*) \[([\w-]+)\]\n?")


def run(name: str, arguments: Sequence[Path], good: Sequence[int] = (0,), progress: Optional[Callable[[Progress], None]] = None) -> Report:
    """Runs a program with --json and gives its report, or raises by its exit code."""
    command = [_program(name), "--json", *(os.fspath(argument) for argument in arguments)]
    told: List[str] = []
    document: List[str] = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace") as process:
        stdout, stderr = process.stdout, process.stderr
        assert stdout is not None and stderr is not None
        # A report may be larger than a pipe, so both are read at the same time.
        reader = threading.Thread(target=lambda: document.append(stdout.read()), daemon=True)
        reader.start()
        try:
            for line in stderr:
                if step := _PROGRESS.fullmatch(line):
                    if progress is not None:
                        progress(Progress(step[1], int(step[2]), int(step[3])))
                else:
                    told.append(line)
        except BaseException:  # of the callback, or Ctrl-C: the program ends without an output
            process.terminate()
            stderr.close()
            raise
        finally:
            reader.join()
    report: Optional[Report] = None
    try:
        report = json.loads(document[0])
    except ValueError:
        pass
    if process.returncode in good and report is not None:
        return report
    # Of a wrong option there is no document.
    said = next((match for match in map(_ERROR.fullmatch, reversed(told)) if match), None)
    message, id = (said[1], said[2]) if said else ("".join(told).strip(), "")
    error = (report or {}).get("error") or {"message": message or f"{name} ended with exit code {process.returncode}", "id": id}
    raise _ERRORS.get(process.returncode, Error)(error["message"], error["id"], process.returncode, report)


def _targets(target: Union[str, Sequence[str]]) -> List[str]:
    return [target] if isinstance(target, str) else list(target)


def convert(src: Path, dst: Path, target: Union[str, Sequence[str]], progress: Optional[Callable[[Progress], None]] = None, **options: Any) -> Report:
    """Converts ``src`` to ``dst``; options are those of the program, with underscores: ``shard_size="5GB"``, ``undo=True``."""
    words = _words({"quiet": True, "progress": progress is not None, "target": _targets(target), **options})
    return run("qwen2-convert", [*words, "--", src, dst], progress=progress)


def plan(src: Path, target: Union[str, Sequence[str]], **options: Any) -> Report:
    """What ``convert`` would do; writes nothing."""
    return run("qwen2-convert", [*_words({"dry_run": True, "target": _targets(target), **options}), "--", src])


def audit(path: Path, **options: Any) -> Report:
    """What is wrong with a checkpoint. Findings are part of the report, and no exception, unless something could not be read."""
    return run("qwen2-audit", [*_words(options), "--", path], good=(0, 1))
