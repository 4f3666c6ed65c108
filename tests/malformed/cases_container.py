"""S01-S22: the safetensors header, up to its entries."""

import struct

from case import Case
from checkpoint import add_entry, append_text, edit_header, edit_text, read_raw, set_entry, write_raw, write_sparse

FILE = r"model-00003-of-00003\.safetensors"
NORM = "model.norm.weight"
MEGA = 10 ** 6
# A header of 100 MB may be held three times over, beside 64 MB for the rest.
BIG_HEADER_MIB = 64 + 3 * 96


def text(edit):
    return lambda box: edit_text(box.shard(), edit)


def metadata(literal):
    return text(lambda header: header.replace(b'{"format":"pt"}', literal))


def entry(literal):
    return lambda box: set_entry(box.shard(), NORM, literal)


def dtype(value):
    return entry(b'{"dtype":' + value + b',"shape":[128],"data_offsets":[145920,146176]}')


def shape(value):
    return entry(b'{"dtype":"F16","shape":' + value + b',"data_offsets":[145920,146176]}')


def length(value):
    return lambda box: write_raw(box.shard(), *read_raw(box.shard()), length=value(box) if callable(value) else value)


def retype(number, name, dtype):
    return lambda box: edit_header(box.shard(number), lambda header: header[name].update(dtype=dtype))


def spaces_up_to(limit):
    return text(lambda header: header + b" " * (limit - len(header)))


def nested(opening, closing):
    return lambda box: append_text(box.shard(), b'"deep":' + opening * 100000 + b"1" + closing * 100000)


def lone_empty_shard(box):
    write_raw(box.input / "extra.safetensors", b"{}", b"")


NORM_ENTRY = b'{"dtype":"F16","shape":[128],"data_offsets":[145920,146176]}'


def rows():
    yield Case("S01", "no bytes", lambda box: box.shard().write_bytes(b""), 65, FILE)
    yield Case("S02", "7 bytes", lambda box: box.shard().write_bytes(b"\x10" + b"\0" * 6), 65, FILE)
    yield Case("S03", "header length 0", lambda box: box.shard().write_bytes(b"\0" * 8), 65, FILE)
    yield Case("S04", "{} as the only file", lambda box: write_raw(box.shard(), b"{}", b""), 65, "missing|no tensor|gptq_model", base="single")
    yield Case("S04", "{} in a stray file", lone_empty_shard, 0, same=True)
    yield Case("S05", "header one byte too long", length(lambda box: box.shard().stat().st_size - 7), 65, FILE)
    yield Case("S05", "header 99 MB too long", length(99 * MEGA), 65, FILE)
    for bits, value in (("2^63-1", 2 ** 63 - 1), ("2^64-1", 2 ** 64 - 1), ("2^64-8", 2 ** 64 - 8)):
        yield Case("S06", f"header length {bits}", length(value), 65, FILE)
    yield Case("S07", "header length 100000001",
               lambda box: write_sparse(box.shard(), 101 * MEGA, struct.pack("<Q", 100 * MEGA + 1) + b"{}"), 65, FILE + ".*100[,' ]?000[,' ]?00|limit")
    yield Case("S08", "header length exactly 100000000", spaces_up_to(100 * MEGA), 0, same=True, memory_mib=BIG_HEADER_MIB)
    for name, value in (("byte 0xFF", b"\xff"), ("overlong UTF-8", b"\xc0\xaf"), ("lone surrogate", b"\\ud800")):
        yield Case("S09", name, metadata(b'{"format":"pt","x":"' + value + b'"}'), 65, FILE)
    yield Case("S09", "byte 0xFF in a tensor's name", lambda box: append_text(box.shard(), b'"extra.\xff":' + NORM_ENTRY), 65, FILE)
    yield Case("S10", "byte order mark first", text(lambda header: b"\xef\xbb\xbf" + header), 65, FILE)
    yield Case("S11", "white space first", text(lambda header: b"\t\n" + header), 0, same=True)
    yield Case("S12", "trailing spaces", text(lambda header: header + b" " * 64), 0, same=True)
    yield Case("S12", "trailing NULs", text(lambda header: header.rstrip() + b"\0" * 8), 65, FILE)
    yield Case("S13", "junk after the object", text(lambda header: header + b"x"), 65, FILE)
    yield Case("S13", "two objects", text(lambda header: header + header), 65, FILE)
    yield Case("S13", "cut short", text(lambda header: header.rstrip()[:-1]), 65, FILE)
    yield Case("S13", "array at the top", text(lambda header: b"[" + header + b"]"), 65, FILE)
    yield Case("S14", "100000 arrays deep", nested(b"[", b"]"), 65, FILE + "|deep|nest")
    yield Case("S14", "100000 objects deep", nested(b'{"a":', b"}"), 65, FILE + "|deep|nest")
    yield Case("S15", "same name twice, different entries",
               lambda box: append_text(box.shard(), b'"model.norm.weight":' + NORM_ENTRY.replace(b"145920", b"145922").replace(b"128", b"127")), 65, NORM)
    yield Case("S16", "same name twice, equal entries", lambda box: append_text(box.shard(), b'"model.norm.weight":' + NORM_ENTRY), 65, NORM)
    empty = b'"extra.none":{"dtype":"F16","shape":[0],"data_offsets":[146176,146176]}'
    yield Case("S16", "zero-size name twice", lambda box: (box.options.append("--drop=extra.*"), append_text(box.shard(), empty + b"," + empty)), 65, "twice|duplicate")
    yield Case("S17", "same name, once escaped", lambda box: append_text(box.shard(), b'"\\u006dodel.norm.weight":' + NORM_ENTRY), 65, NORM)
    yield Case("S18", "__metadata__ twice", text(lambda header: b'{"__metadata__":{"format":"pt"},' + header[1:]), 65, "__metadata__|" + FILE)
    for name, value in (("a tensor entry", NORM_ENTRY), ("a number", b"1"), ("an array", b'["pt"]'), ("null", b"null"),
                        ("holding a number", b'{"format":"pt","n":1}'), ("holding an array", b'{"format":["pt"]}'), ("holding null", b'{"format":"pt","n":null}')):
        yield Case("S18", f"__metadata__ is {name}" if not name.startswith("h") else f"__metadata__ {name}", metadata(value), 65, "__metadata__|" + FILE)
    yield Case("S19", "__metadata__ empty", metadata(b"{}"), 0, same=True)
    yield Case("S19", "__metadata__ absent", text(lambda header: header.replace(b'"__metadata__":{"format":"pt"},', b"")), 0, same=True)
    for name in ("Q4", "f16", ""):
        yield Case("S20", f"dtype '{name}'", dtype(b'"%s"' % name.encode()), 69, NORM + ".*")
    for value in (b"16", b"null", b'["F16"]'):
        yield Case("S20", f"dtype {value.decode()}", dtype(value), 65, NORM + "|" + FILE)
    yield Case("S21", "codes relabelled F32", retype(1, "model.layers.0.mlp.up_proj.qweight", "F32"), 65, r"mlp\.up_proj\.qweight")
    yield Case("S21", "norm relabelled I16", retype(3, NORM, "I16"), 65, NORM)
    yield Case("S21", "embedding relabelled U16", retype(3, "model.embed_tokens.weight", "U16"), 65, "embed_tokens")
    for value in (b"[-1]", b"[128.0]", b"[1.28e2]", b'["128"]', b"[true]", b"[18446744073709551616]", b"128", b"null", b'{"0":128}'):
        yield Case("S22", f"shape {value.decode()}", shape(value), 65, NORM + "|" + FILE)
    for name, dtype_name, dimensions in (("S23", "F32", [4194305, 4194305, 211106198978564]), ("S24", "I32", [2, 2 ** 63 - 1])):
        yield Case(name, "size wraps around", lambda box, d=dtype_name, s=dimensions: add_entry(box.shard(), "extra.wrap", d, s, 16 if d == "F32" else 0), 65, "extra.wrap", base="single")
    yield Case("S25", "3 elements of 4 bits", lambda box: add_entry(box.shard(), "extra.f4", "F4", [3], 2), 65, "extra.f4", base="single")
    yield Case("S26", "rank 100000", lambda box: add_entry(box.shard(), "extra.rank", "F16", [1] * 100000, 2), 65, "extra.rank|rank|dimension", base="single")
