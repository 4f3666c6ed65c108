#!/usr/bin/python3
"""Converts broken checkpoints, one for each row of the tables, and looks at how the tool takes it.

    run.py [--binary=PATH] [--only=ID] [--list]

For every case: exit code, message (names its subject; each error line ends with its finding id), nothing left beside the
input, the input unchanged to the byte, the time, the memory, and no control character from the input on the terminal.
Prints a line for each case that fails or is skipped, then 'N passed, N failed'; exits 1 if any failed.
"""

import argparse
import hashlib
import os
import pathlib
import re
import resource
import shutil
import signal
import stat
import sys
import tempfile
import time

import cases_config
import cases_container
import cases_data
import cases_index
import cases_layouts
import cases_payload
import cases_torch
from checkpoint import Bases, Box, Skip, read_tensors

TABLES = (cases_container, cases_data, cases_index, cases_config, cases_payload, cases_layouts, cases_torch)
KILL_AFTER_SECONDS = 60
ERROR_LINE = re.compile(r"^qwen2-convert: error: .*", re.M)
ERROR_FORM = re.compile(r"^qwen2-convert: error: .+ \[[a-z0-9]+(-[a-z0-9]+)*\]$")
UNSAFE = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def content_digest(path, size):
    """Digest of what is written; holes of large sparse files are passed over."""
    digest, at = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break  # only a hole is left
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            digest.update(b"%d:" % at)
            while at < end:
                block = os.pread(file.fileno(), min(end - at, 2 ** 20), at)
                digest.update(block)
                at += len(block)
    return digest.hexdigest()


def snapshot(root, skip=None):
    """{path: what it is and holds} of all that lies below root; times too, except of folders that hold no input."""
    found = {}
    for folder, names, files in os.walk(os.fsencode(root)):
        for name in names + files:
            path = os.path.join(folder, name)
            if skip and (path == skip or path.startswith(skip + b"/")):
                continue
            status = os.lstat(path)
            value = [stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)]
            if stat.S_ISREG(status.st_mode):
                value += [status.st_size, status.st_mtime_ns, content_digest(path, status.st_size)]
            elif stat.S_ISLNK(status.st_mode):
                value.append(os.readlink(path))
            elif path.startswith(os.fsencode(root / "in")):
                value.append(status.st_mtime_ns)
            found[path] = value
    return found


def difference(before, after):
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            what = "new" if path not in before else "gone" if path not in after else "changed"
            return f"{what}: {os.fsdecode(os.path.relpath(path, os.path.commonpath([*before, *after])))!r}"
    return None


def start(command, box, out, err):
    """fork and exec by hand: the memory of this process must not count as the child's."""
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            if box.max_open_files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (box.max_open_files, box.max_open_files))
            # Opened first: nobody may not look into the folder the program lies in (such as /root).
            program = os.open(command[0], os.O_RDONLY | os.O_CLOEXEC)
            if box.as_nobody:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.execve(program, [os.fspath(word) for word in command], os.environ)
        except OSError as error:
            os.write(2, f"cannot start: {error}".encode())
        finally:
            os._exit(127)
    return pid


def run(command, box):
    """(exit code or -signal, stdout, stderr, seconds, MiB); the code is None if the process had to be killed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin, entries = time.monotonic(), set(os.listdir(box.parent))
        pid, killed = start(command, box, out, err), False
        while True:
            if box.during and set(os.listdir(box.parent)) != entries:
                os.kill(pid, signal.SIGSTOP)
                box.during()
                os.kill(pid, signal.SIGCONT)
                box.during = None
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() - begin > KILL_AFTER_SECONDS and not killed:
                os.kill(pid, signal.SIGKILL)
                killed = True
            time.sleep(0.0002 if box.during else 0.002)
        waited, busy = time.monotonic() - begin, usage.ru_utime + usage.ru_stime
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
        code = None if killed else os.waitstatus_to_exitcode(status)
        # A loaded machine makes every run longer: the processor time counts, and the clock only where it is far off.
        return code, texts[0], texts[1], max(busy, waited / 4), usage.ru_maxrss / 1024


def tensors_of(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in read_tensors(path).items()}


def complaints_about_text(case, code, stdout, stderr):
    for name, raw in (("stdout", stdout), ("stderr", stderr)):
        try:
            found = UNSAFE.search(raw.decode())
            if found:
                yield f"{name} holds the control character {found.group()!r}"
        except UnicodeDecodeError:
            yield f"{name} is not UTF-8"
        if len(raw) > 65536:
            yield f"{name} is {len(raw)} bytes long"
    text = stderr.decode(errors="replace")
    errors = ERROR_LINE.findall(text)
    if code not in (0, None) and not errors:
        yield "no error line"
    if code == 0 and errors:
        yield "an error line, and yet exit 0"
    for line in errors:
        if not ERROR_FORM.match(line):
            yield f"no finding id at the end of {line[-120:]!r}"
    if code != 0 and not re.search(case.says, text):
        yield f"the message does not match {case.says!r}"


def complaints_about_output(case, box, clean):
    try:
        if case.same and tensors_of(box.out) != clean(case.base):
            yield "the output's tensors are not those of the undamaged conversion"
        if case.check and (complaint := case.check(box)):
            yield complaint
    except (OSError, KeyError, ValueError) as error:
        yield f"the output cannot be checked: {type(error).__name__}: {error}"


def try_case(case, binary, bases, clean, limits, root):
    """Runs one case; returns (complaints, what the tool did)."""
    box = Box(root, bases.folder(case.base))
    case.damage(box)
    if box.as_nobody and os.geteuid() != 0:
        box.as_nobody = False  # then the permissions bind this user already
    options = [f"--target={case.target}", "--quiet", *box.options]
    during = box.during
    before = snapshot(root)
    code, stdout, stderr, seconds, mib = run([binary, box.input, box.out, *options], box)

    complaints = []
    if code not in case.expected():
        complaints.append(f"exit {code}, expected {' or '.join(map(str, case.expected()))}")
    complaints += complaints_about_text(case, code, stdout, stderr)
    if during is None:
        after = snapshot(root, skip=os.fsencode(box.out) if code == 0 else None)
        if changed := difference(before, after):
            complaints.append(changed)
    elif box.during is not None:
        complaints.append("no staging entry was seen")
    elif code != 0 and (entries := os.listdir(box.parent)):
        complaints.append(f"left behind: {entries}")
    if code == 0:
        complaints += complaints_about_output(case, box, clean)
    if limits and seconds > case.seconds:
        complaints.append(f"took {seconds:.1f} s, allowed {case.seconds:g}")
    if limits and mib > case.memory_mib:
        complaints.append(f"used {mib:.0f} MiB, allowed {case.memory_mib}")
    return complaints, f"exit {code}: {stderr.decode(errors='backslashreplace').strip()[:600]}"


def in_fresh_folder(work):
    root = pathlib.Path(tempfile.mkdtemp(prefix="qwen2-malformed-"))
    root.chmod(0o755)  # a case may run as another user
    try:
        return work(root)
    finally:
        shutil.rmtree(root)


def damaged(bases, folder, every=1):
    """(case, box) for each row of the tables, in a folder of its own that is removed afterwards; what cannot be made here is left out."""
    for number, case in enumerate([case for table in TABLES for case in table.rows()][::every]):
        work = folder / str(number)
        work.mkdir()
        try:
            box = Box(work, bases.folder(case.base))
            case.damage(box)
            yield case, box
        except Skip:
            pass
        finally:
            for path in work.rglob("*"):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o755)
            shutil.rmtree(work, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--binary", default="qwen2-convert")
    parser.add_argument("--only", default="", help="an id such as S07, or its beginning such as S")
    parser.add_argument("--no-limits", action="store_true", help="do not judge time and memory: for builds with a sanitizer")
    parser.add_argument("--list", action="store_true", help="print the cases and what is expected of each")
    options = parser.parse_args()
    cases = [case for table in TABLES for case in table.rows() if case.id.startswith(options.only)]
    if options.list:
        for case in cases:
            print(f"{case.id}  {'/'.join(map(str, case.expected())):9} {case.name}")
        return 0
    binary = shutil.which(options.binary)
    if binary is None:
        sys.exit(f"no program '{options.binary}'")
    binary = os.path.abspath(binary)

    with tempfile.TemporaryDirectory(prefix="qwen2-bases-") as folder:
        return run_all(cases, binary, Bases(binary, pathlib.Path(folder)), not options.no_limits)


def run_all(cases, binary, bases, limits):
    cleans = {}

    def clean(base):
        def convert(root):
            box = Box(root, bases.folder(base))
            code, _, stderr, _, _ = run([binary, box.input, box.out, "--target=transformers-4.x", "--quiet"], box)
            if code != 0:
                sys.exit(f"the undamaged base '{base}' does not convert: {stderr.decode(errors='replace')}")
            return tensors_of(box.out)
        if base not in cleans:
            cleans[base] = in_fresh_folder(convert)
        return cleans[base]

    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for case in cases:
        try:
            complaints, result = in_fresh_folder(lambda root: try_case(case, binary, bases, clean, limits, root))
        except Skip as reason:
            counts["skipped"] += 1
            print(f"skip {case.id} {case.name}: {reason}")
            continue
        counts["failed" if complaints else "passed"] += 1
        if complaints:
            print(f"FAIL {case.id} {case.name}: {'; '.join(complaints)}\n     {result}", flush=True)
    print(", ".join(f"{count} {name}" for name, count in counts.items() if count or name != "skipped"))
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
