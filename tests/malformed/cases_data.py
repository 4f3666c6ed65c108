"""S27-S43: where the tensors lie, and what else can stand where a shard should be."""

import gzip
import io
import os
import pty
import shutil
import socket
import stat
import struct
import subprocess
import sys
import zipfile

from case import Case
from cases_container import BIG_HEADER_MIB, FILE, NORM, NORM_ENTRY, entry, shape
from checkpoint import Skip, add_entry, append_text, edit_header, edit_tensors, edit_text, read_raw, write_raw


def offsets(literal):
    return entry(b'{"dtype":"F16","shape":[128],"data_offsets":' + literal + b"}")


def hole(before):
    """Moves every tensor that begins at `before` or later by 8 bytes."""
    def damage(box):
        header, data = read_raw(box.shard())
        edit_header(box.shard(), lambda h: [e.update(data_offsets=[at + 8 for at in e["data_offsets"]])
                                            for n, e in h.items() if n != "__metadata__" and e["data_offsets"][0] >= before])
        write_raw(box.shard(), read_raw(box.shard())[0], data[:before] + b"\0" * 8 + data[before:])
    return damage


def aliases(box):
    more = (b'"extra.%06d":' % i + NORM_ENTRY for i in range(100000))
    append_text(box.shard(), b",".join(more))


def trailing(make):
    def damage(box):
        box.shard().write_bytes(box.shard().read_bytes() + make(box))
    return damage


def zipped(box):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x" * 1000)
    return buffer.getvalue()


def short_by(missing, extra):
    """Declares a tensor of `extra` bytes and leaves the file `missing` bytes short; nothing is written for it."""
    def damage(box):
        header, data = read_raw(box.shard())
        edit_header(box.shard(), lambda h: h.update({"extra.large": {"dtype": "U8", "shape": [extra], "data_offsets": [len(data), len(data) + extra]}}))
        os.truncate(box.shard(), box.shard().stat().st_size + extra - missing)
    return damage


def without(key):
    return lambda box: edit_header(box.shard(), lambda header: header[NORM].pop(key))


def dropped(damage):
    """The tensors named extra.* are to be dropped, so that the rest of the model is complete."""
    return lambda box: (damage(box), box.options.append("--drop=extra.*"))


def named(name):
    return lambda box: add_entry(box.shard(), name, "F16", [1], 2)


def million(box):
    """A 99 MB header of 1,000,000 entries, written piece by piece to keep this process small."""
    header, data = read_raw(box.shard())
    count, base, head = 10 ** 6, len(data), header.rstrip()[:-1]
    piece = ',"extra.%07d' + "x" * 20 + '":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    pieces = lambda: (piece % (i, base + i, base + i + 1) for i in range(count))
    size = len(head) + sum(map(len, pieces())) + 1
    with open(box.shard(), "wb") as file:
        file.write(struct.pack("<Q", size) + head)
        for entry_text in pieces():
            file.write(entry_text.encode())
        file.write(b"}" + data)
        file.truncate(8 + size + base + count)


def unaligned(box):
    edit_text(box.shard(1), lambda header: header.rstrip() + b" " * ((1 - 8 - len(header.rstrip())) % 8))
    assert (8 + len(read_raw(box.shard(1))[0])) % 8 == 1


def byte_first(box):
    def edit(tensors):
        rest = dict(tensors)
        tensors.clear()
        tensors["extra.byte"] = ("U8", [1], b"\7")
        tensors.update(rest)
    edit_tensors(box.shard(1), edit)


def instead(make, options=()):
    """Puts something that is no regular file in the place of shard 3."""
    def damage(box):
        path = box.shard(3)
        path.unlink()
        make(path)
        box.options.extend(options)
    return damage


def unix_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short, the path of the folder may not be
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def node(number):
    def make(path):
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, number())
        except PermissionError:
            raise Skip("device nodes cannot be made here")
    return make


def tty_number():
    try:
        return os.stat(os.ttyname(pty.openpty()[1])).st_rdev
    except OSError as error:  # a root without /dev/pts
        raise Skip(f"no terminal can be opened here: {error}") from error


def huge(box):
    for power in (60, 50, 44, 43, 42):
        try:
            return os.truncate(box.shard(), 2 ** power)
        except OSError:
            continue  # larger than this file system's largest file
    raise Skip("no large sparse files here")


def during(change):
    """Replaces the input by one of 100 MB, and changes it once the tool has made its staging entry."""
    def damage(box):
        shutil.rmtree(box.input)
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "make_big.py")
        subprocess.run([sys.executable, script, box.input], check=True)
        box.during = lambda: change(box.input / "model.safetensors")
    return damage


def replace(path):
    other = path.with_name("other")
    shutil.copyfile(path, other)
    os.replace(other, path)


def content(data):
    return lambda box: box.shard().write_bytes(data)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 149616\n"
HTML = b"<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head></html>\n"
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>\n'


def rows():
    for name, value in (("begin after end", b"[146176,145920]"), ("end after the data", b"[145920,999999]"),
                        ("three numbers", b"[145920,146176,146176]"), ("one number", b"[145920]"),
                        ("negative", b"[-256,146176]"), ("fractions", b"[145920.0,146176.0]"), ("2^64", b"[145920,18446744073709551616]")):
        yield Case("S27", f"offsets: {name}", offsets(value), 65, NORM + "|" + FILE)
    yield Case("S28", "hole at the front", hole(0), 65, FILE + "|gap|hole")
    yield Case("S28", "hole in the middle", hole(145920), 65, NORM + "|gap|hole")
    yield Case("S29", "partial overlap", entry(b'{"dtype":"F16","shape":[129],"data_offsets":[145918,146176]}'), 65, NORM)
    yield Case("S29", "100000 names for one range", aliases, 65, "overlap|" + FILE)
    yield Case("S30", "one byte behind the data", trailing(lambda box: b"\0"), 65, FILE)
    yield Case("S30", "a zip behind the data", trailing(zipped), 65, FILE)
    yield Case("S30", "a second file behind the data", trailing(lambda box: box.shard(2).read_bytes()), 65, FILE)
    yield Case("S31", "one byte short", lambda box: os.truncate(box.shard(), box.shard().stat().st_size - 1), 65, f"{FILE}.*|{NORM}")
    yield Case("S31", "301 MB short", short_by(301 * 10 ** 6, 400 * 10 ** 6), 65, r"extra\.large|301[,' ]?000[,' ]?000", base="single")
    yield Case("S32", "shape smaller than its bytes", shape(b"[127]"), 65, NORM)
    yield Case("S32", "dtype wider than its bytes", entry(NORM_ENTRY.replace(b"F16", b"F32")), 65, NORM)
    for key in ("dtype", "shape", "data_offsets"):
        yield Case("S33", f"no {key}", without(key), 65, NORM + "|" + FILE)
    yield Case("S33", "unknown key", lambda box: edit_header(box.shard(), lambda header: header[NORM].update(note=1)), 0, same=True)
    for dimensions in ([], [0], [0, 4], [4, 0]):
        size = 4 if dimensions == [] else 0
        yield Case("S34", f"shape {dimensions}", dropped(lambda box, d=dimensions, s=size: add_entry(box.shard(), "extra.small", "F32", d, s)), 0, base="single", same=True)
    for label, name in (("empty", ""), ("1 MB", "extra." + "n" * 10 ** 6), ("NUL", "extra.\0z"), ("newline", "extra.\nz"), ("ESC", "extra.\x1b[2Jz"),
                        ("bidi override", "extra.\u202ez"), ("C1 control", "extra.\u009b2Jz"), ("../x", "../x"), ("absolute", "/tmp/x")):
        yield Case("S35", f"name: {label}", named(name), (65, 69), {"../x": r"'\.\./x'", "absolute": "'/tmp/x'", "empty": "tensor|name"}.get(label, "extra"), base="single")
    yield Case("S35", "name: ../x, dropped", lambda box: (named("../x")(box), box.options.append("--drop=../x")), 0, base="single", same=True)
    yield Case("S35", "name: ESC, dropped", dropped(named("extra.\x1b[2Jz")), 0, base="single", same=True)
    yield Case("S35", "name: invalid escape", lambda box: append_text(box.shard(), b'"extra.\\x":' + NORM_ENTRY), 65, FILE)
    yield Case("S36", "1000000 tensors", dropped(million), (0, 65), "gptq_model|tensors|limit", base="single", memory_mib=BIG_HEADER_MIB)
    yield Case("S37", "1e999999999", shape(b"[1e999999999]"), 65, NORM + "|" + FILE)
    yield Case("S37", "a million digits", shape(b"[" + b"9" * 10 ** 6 + b"]"), 65, NORM + "|" + FILE)
    yield Case("S38", "data begin at an odd byte", unaligned, 0, same=True)
    yield Case("S38", "one byte before the words", dropped(byte_first), 0, base="single", same=True)
    yield Case("S39", "FIFO", instead(os.mkfifo), 65, FILE)
    yield Case("S39", "socket", instead(unix_socket), 65, FILE)
    yield Case("S39", "directory", instead(os.mkdir), 65, FILE)
    yield Case("S39", "/dev/zero by a link", instead(lambda path: path.symlink_to("/dev/zero"), ["--follow-links"]), 65, FILE)
    yield Case("S39", "/dev/zero by a node", instead(node(lambda: os.stat("/dev/zero").st_rdev)), 65, FILE)
    yield Case("S39", "terminal by a node", instead(node(tty_number)), 65, FILE)
    yield Case("S40", "sparse file of 2^60 bytes", huge, 65, FILE)
    yield Case("S41", "cut short while it is read", during(lambda path: os.truncate(path, 10 ** 6)), (74, 75, 65), "model.safetensors", seconds=20)
    yield Case("S41", "replaced while it is read", during(replace), (74, 75, 65), "model.safetensors", seconds=20)
    yield Case("S41", "touched while it is read", during(lambda path: os.utime(path, (1, 1))), (74, 75, 65), "model.safetensors", seconds=20)
    yield Case("S42", "git-LFS pointer", content(POINTER), 65, FILE + ".*LFS.* SHA-256 (4d){32}, 149616 bytes")
    yield Case("S42", "HTML page", content(HTML), 65, FILE + ".*(?i:html|web page)")
    yield Case("S42", "XML error", content(XML), 65, FILE + ".*(?i:xml)")
    yield Case("S42", "download not finished", lambda box: box.shard().rename(str(box.shard()) + ".incomplete"), 65, FILE + ".*(?i:incomplete|download|interrupted)")
    yield Case("S43", "gzip", lambda box: box.shard().write_bytes(gzip.compress(box.shard().read_bytes())), 65, FILE + ".*(?i:gzip)")
    yield Case("S43", "zstd", lambda box: box.shard().write_bytes(b"\x28\xb5\x2f\xfd" + b"\1" * 1000), 65, FILE + ".*(?i:zstd)")
    yield Case("S43", "zip", lambda box: box.shard().write_bytes(zipped(box)), 65, FILE + ".*(?i:zip)")

