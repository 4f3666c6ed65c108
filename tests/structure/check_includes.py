#!/usr/bin/python3
"""Holds the source against the rules of its structure.

    check_includes.py [ROOT]

Prints every violation and exits 1 if there is one.
"""

import pathlib
import re
import sys

SOURCES = ("formats", "convert", "verify")
MAX_LINES = 420
BASE_ONLY = re.compile(r"nlohmann/|xxhash|openssl/|zstd|boost/filesystem")
# What only Linux has; pipe2, accept4 and the like are in other systems, but not in all.
LINUX_FILES = re.compile(r"formats/base/system_linux\.cc$")
LINUX_HEADERS = re.compile(r"linux/|asm/|sys/(auxv|epoll|eventfd|fanotify|fsuid|inotify|ioctl|prctl|random|sendfile|signalfd|statfs|syscall|sysinfo|sysmacros|timerfd|vfs|xattr)\.h$|(sched|mntent|syscall)\.h$")
LINUX_WORDS = re.compile(
    r"\b(copy_file_range|fallocate|posix_fallocate|renameat2|sync_file_range|syncfs|posix_fadvise|readahead|fdatasync|statx|f?statfs|ioctl|syscall|prctl|sched_\w+|pthread_setaffinity_np|preadv2?|pwritev2?"
    r"|getrandom|sendfile|splice|memfd_create|mremap|pipe2|accept4|dup3|gettid|clone3|unshare|setns|epoll_\w+|inotify_\w+|eventfd|signalfd|timerfd_\w+|pidfd_\w+|get_nprocs|sysinfo|getauxval|secure_getenv|euidaccess|execvpe"
    r"|program_invocation_\w+|FICLONE\w*|RENAME_\w+|O_(TMPFILE|PATH|DIRECT|NOATIME)|AT_EMPTY_PATH|MAP_(POPULATE|HUGETLB)|MADV_HUGEPAGE|__linux__|linux)\b|\"[^\"\n]*/(proc|sys)/")
ASIDE = re.compile(r"//[^\n]*|^\s*#\s*include[^\n]*", re.MULTILINE)
JOINERS = re.compile(r"convert/(job|job_report|options)\.|convert/convert_main\.cc$")
ZOO = re.compile(r"convert/zoo_")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

# Lower may not include higher. The first pattern that fits a file gives its level.
LEVELS = (
    (0, r"formats/base/"),
    (1, r"formats/(tensor|quant_linear|embedded)\."),
    (2, r"formats/(containers|layouts)/"),
    (3, r"formats/"),
    (6, ZOO.pattern),
    (5, JOINERS.pattern),
    (4, r"(convert|verify)/"),
)


def level(path):
    return next((number for number, pattern in LEVELS if re.match(pattern, path)), None)


def includes(text):
    return [(quote == '"', name) for quote, name in INCLUDE.findall(text)]


def check_file(path, text):
    """Violations of one source file; `path` is relative to the root."""
    found = []
    lines = text.count("\n")
    if lines > MAX_LINES:
        found.append(f"{path}: {lines} lines, at most {MAX_LINES}")
    if not LINUX_FILES.match(path):
        found += [f"{path}: includes {name}, which is Linux' own; see formats/base/system.h" for _, name in includes(text) if LINUX_HEADERS.match(name)]
        found += [f"{path}: has {match[0]}, which is Linux' own; see formats/base/system.h" for match in LINUX_WORDS.finditer(ASIDE.sub("", text))]
    for ours, name in includes(text):
        if not name.startswith("formats/") and BASE_ONLY.search(name) and not path.startswith("formats/base/"):
            found.append(f"{path}: includes {name}, which only formats/base may")
        if not ours:
            continue
        theirs = level(name)
        if theirs is None:
            found.append(f"{path}: includes {name}, which is no header of {', '.join(SOURCES)}")
            continue
        if theirs > level(path):
            found.append(f"{path}: includes {name}, which lies above it")
        for a, b in (("convert/", "verify/"), ("verify/", "convert/")):
            if path.startswith(a) and name.startswith(b) and not JOINERS.match(path) and not ZOO.match(path):
                found.append(f"{path}: includes {name}; only the job joins convert and verify")
        for a, b in (("containers", "layouts"), ("layouts", "containers")):
            if path.startswith(f"formats/{a}/") and name.startswith(f"formats/{b}/"):
                found.append(f"{path}: includes {name}; containers and layouts do not know each other")
    return found


def check_sources(root):
    found = []
    for folder in SOURCES:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".cc", ".h"):
                found += check_file(path.relative_to(root).as_posix(), path.read_text())
    return found


def check_unit_tests(root):
    """Every *_test.cc must be built."""
    unit = root / "tests" / "unit"
    listed = set(re.findall(r"[\w/.]+_test\.cc", (unit / "CMakeLists.txt").read_text()))
    on_disk = {path.relative_to(unit).as_posix() for path in unit.rglob("*_test.cc")}
    return [f"tests/unit/{name}: is not listed in tests/unit/CMakeLists.txt" for name in sorted(on_disk - listed)] + [
        f"tests/unit/{name}: is listed, but not there" for name in sorted(listed - on_disk)
    ]


def check_fixtures(root):
    """The oracle walks the whole folder; each fixture must have what it walks over, and it must walk."""
    found = []
    fixtures = sorted(path.parent for path in (root / "fixtures").glob("**/checkpoint"))
    if not fixtures:
        found.append("fixtures: holds no checkpoint")
    for path in fixtures:
        if not (path / "expected.safetensors").is_file():
            found.append(f"{path.relative_to(root)}: has no expected.safetensors for the oracle tests")
    if '.glob("**/checkpoint")' not in (root / "tests" / "oracle" / "check_all.py").read_text():
        found.append("tests/oracle/check_all.py: does not walk every checkpoint in fixtures/")
    if "oracle/check_all.py fixtures" not in (root / "tests" / "CMakeLists.txt").read_text():
        found.append("tests/CMakeLists.txt: does not run oracle/check_all.py over fixtures/")
    return found


def main(arguments):
    root = pathlib.Path(arguments[0]) if arguments else pathlib.Path(__file__).resolve().parents[2]
    found = check_sources(root) + check_unit_tests(root) + check_fixtures(root)
    for line in found:
        print(line)
    print(f"{len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
