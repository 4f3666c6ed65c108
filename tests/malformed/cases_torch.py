"""P01-P12: PyTorch files: archives, pickles that would run programs, views, names of files.

Where a pickle would run something, that would leave a file `canary` in the folder of the case; run.py fails a case
that leaves anything behind.
"""

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import warnings
import zipfile

import torch_file
import torch_writer as made
from case import Case
from checkpoint import write_tensors

warnings.filterwarnings("ignore", "Duplicate name")  # of members, which is what one row is about
NORM = "model.norm.weight"


def weights(box):
    return next(box.input.glob("*.bin"))


def tensors(box):
    return torch_file.read(weights(box))


def rewrite(change=None, edit=None, front=b"\x80\x02"):
    """The same tensors written anew; `change` maps the state dict's items to others, `edit` the archive's members."""
    def damage(box):
        state = tensors(box)
        content = made.items(state)
        made.write_zip(weights(box), made.pickled(change(content) if change else content, front), [raw for _, _, raw in state.values()], edit=edit)
    return damage


def one_tensor(build):
    """NORM is built from `build(number of its storage, elements)`, all else is as it was."""
    def change(content):
        at = content.index(made.text(NORM)) + len(made.text(NORM))
        end = content.index(b"tR", content.index(made.ORDERED, at)) + 2
        key = content.count(b"_rebuild_tensor_v2", 0, at)
        return content[:at] + build(str(key), 128) + content[end:]
    return rewrite(change)


def view(shape, strides, offset=0, kind="HalfStorage", elements=None):
    return one_tensor(lambda key, count: made.tensor(made.storage_id(kind, key, elements or count), shape, strides, offset))


# ---- pickles that would run something ----

def command(box):
    return f"touch {box.root}/canary".encode()


class Runs:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def evil(box):
    """{name: bytes that put one value on the stack, by running something if they were run}"""
    shell = made.text(command(box))
    python = made.text(b"open(%r, 'w')" % f"{box.root}/canary")
    return {
        "os.system": b"cos\nsystem\n" + shell + b"\x85R",
        "posix.system": b"cposix\nsystem\n" + shell + b"\x85R",
        "builtins.eval": b"cbuiltins\neval\n" + python + b"\x85R",
        "__builtin__.eval": b"c__builtin__\neval\n" + python + b"\x85R",
        "subprocess.Popen": b"csubprocess\nPopen\n(](" + made.text("touch") + made.text(f"{box.root}/canary") + b"etR",
        "builtins.getattr": b"cbuiltins\ngetattr\ncos\nsystem\n" + made.text("__call__") + b"\x86R" + shell + b"\x85R",
        "torch.hub.load": b"ctorch.hub\nload\n" + shell + b"\x85R",
        "numpy.testing._private.utils.runstring": b"cnumpy.testing._private.utils\nrunstring\n" + python + b"}\x86R",
        "INST": b"(" + shell + b"ios\nsystem\n",
        "OBJ": b"(cos\nsystem\n" + shell + b"o",
        "NEWOBJ": b"cbuiltins\nopen\n(" + made.text(f"{box.root}/canary") + made.text("w") + b"t\x81",
        "STACK_GLOBAL": made.text("os") + made.text("system") + b"\x93" + shell + b"\x85R",
        "STACK_GLOBAL from memo": made.text("os") + b"q\xf0" + made.text("system") + b"q\xf100h\xf0h\xf1\x93" + shell + b"\x85R",
        "real pickle": pickle.dumps(Runs(os.system, command(box).decode()), 2)[2:-1],
        "real pickle, protocol 4": pickle.dumps(Runs(os.system, command(box).decode()), 4)[11:-1],
    }


EVIL = ("os.system", "posix.system", "builtins.eval", "__builtin__.eval", "subprocess.Popen", "builtins.getattr", "torch.hub.load", "numpy.testing._private.utils.runstring",
        "INST", "OBJ", "NEWOBJ", "STACK_GLOBAL", "STACK_GLOBAL from memo", "real pickle", "real pickle, protocol 4")


def evil_entry(which):
    return lambda box: rewrite(lambda content: made.text("extra") + evil(box)[which] + content)(box)


def evil_alone(which):
    return lambda box: weights(box).write_bytes(b"\x80\x02" + evil(box)[which] + b".")


def evil_legacy(which):
    def damage(box):
        state = tensors(box)
        made.write_legacy(weights(box), made.pickled(made.text("extra") + evil(box)[which] + made.items(state)), state)
    return damage


def evil_storage_name(box):
    """A key of a storage that is called into being."""
    one_tensor(lambda key, count: made.tensor(made.storage_id("HalfStorage", key, count).replace(made.text(key), evil(box)["os.system"], 1), [128]))(box)


def named(which):
    """What the message names."""
    if which.startswith(("real", "STACK", "INST", "OBJ")):
        return r"(os|posix)\.system"
    return {"NEWOBJ": r"builtins\.open", "builtins.getattr": r"builtins\.getattr"}.get(which, which.replace(".", r"\."))


# ---- archives ----

def member(index, **fields):
    def edit(members):
        for name, value in fields.items():
            setattr(members[index][0], name, value)
    return rewrite(edit=edit)


def added(name, content=b"x"):
    return rewrite(edit=lambda members: members + [(zipfile.ZipInfo(name), content)])


def patched(*changes):
    """Bytes of the finished archive: (where they are, by the archive; what becomes of them) …"""
    def damage(box):
        rewrite()(box)
        blob = bytearray(weights(box).read_bytes())
        for find, replace in changes:
            at = find(blob)
            blob[at:at + len(replace)] = replace
        weights(box).write_bytes(blob)
    return damage


def local(name, field):
    """Place of a field of a member's local header."""
    return lambda blob: blob.index(b"PK\3\4", blob.index(name.encode()) - 30) + field


def central(name, field):
    return lambda blob: blob.index(b"PK\1\2", blob.rindex(name.encode()) - 46) + field


def grown(front=b"", back=b""):
    def damage(box):
        rewrite()(box)
        weights(box).write_bytes(front + weights(box).read_bytes() + back)
    return damage


def truncated(keep):
    return lambda box: weights(box).write_bytes(weights(box).read_bytes()[:keep])


def wide_end(field, value):
    """A 64-bit end of the directory that claims too much."""
    def damage(box):
        rewrite()(box)
        blob = weights(box).read_bytes()
        _, _, _, count, _, size, at, _ = struct.unpack("<4s4H2IH", blob[-22:])
        end = {"count": count, "size": size, "at": at} | {field: value}
        record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, end["count"], end["count"], end["size"], end["at"])
        locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(blob) - 22, 1)
        weights(box).write_bytes(blob[:-22] + record + locator + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    return damage


def two_ends(box):
    """An archive behind an archive: readers that begin at the front see the first."""
    rewrite()(box)
    first = weights(box).read_bytes()
    grown(back=first)(box)


def tar(box):
    path = weights(box)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"\x80\x02N."))


def legacy(box, **options):
    state = tensors(box)
    made.write_legacy(weights(box), made.pickled(made.items(state)), state, **options)


def nested(key, **more):
    def damage(box):
        state = tensors(box)
        inner = made.text(key) + made.ORDERED + b"(" + made.items(state) + b"u" + b"".join(made.text(name) + value for name, value in more.items())
        made.write_zip(weights(box), b"\x80\x02}(" + inner + b"u.", [raw for _, _, raw in state.values()])
    return damage


def tied(box):
    """The norm of the last layer shares the storage of another one, which holds the same."""
    state = tensors(box)
    twin = next(name for name, (dtype, shape, _) in state.items() if shape == state[NORM][1] and name != NORM and dtype == state[NORM][0])
    state[NORM] = state[twin]
    keys = list(state)
    content = made.items(state)
    old = made.storage_id("HalfStorage", str(keys.index(NORM)), 128)
    new = made.storage_id("HalfStorage", str(keys.index(twin)), 128)
    made.write_zip(weights(box), made.pickled(content.replace(old, new)), [raw for _, _, raw in state.values()])


# ---- names of files ----

def sharded(box, index=True):
    state = tensors(box)
    weights(box).unlink()
    names, files = sorted(state), {}
    for number in (1, 2, 3):
        name = f"pytorch_model-{number:05}-of-00003.bin"
        part = {key: state[key] for key in names[number - 1::3]}
        made.write_zip(box.input / name, made.pickled(made.items(part)), [raw for _, _, raw in part.values()])
        files |= dict.fromkeys(part, name)
    if index:
        total = sum(len(raw) for _, _, raw in state.values())
        (box.input / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": files}))


def shard_missing(box):
    sharded(box)
    (box.input / "pytorch_model-00002-of-00003.bin").unlink()


def shard_missing_without_index(box):
    sharded(box, index=False)
    (box.input / "pytorch_model-00002-of-00003.bin").unlink()


def renamed(name):
    return lambda box: weights(box).rename(box.input / name)


def base_name(box):
    weights(box).rename(box.input / "mine.bin")
    (box.input / "another.bin").write_bytes(b"stale")
    path = box.input / "quantize_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model_file_base_name": "mine"}))


def gptq_for_llama(box):
    """A bare state dict with a name that says the bits, and no config of the quantisation."""
    weights(box).rename(box.input / "qwen2-4bit-128g.pt")
    (box.input / "quantize_config.json").unlink()


def beside_safetensors(box):
    write_tensors(box.input / "model.safetensors", tensors(box))
    weights(box).write_bytes(b"stale")


def beside(name):
    return lambda box: (box.input / name).write_bytes(b"\x80\x02N.")


def several(box):
    weights(box).rename(box.input / "one.bin")
    shutil.copy(box.input / "one.bin", box.input / "two.bin")


def as_safetensors(box):
    path = weights(box)
    write_tensors(path, tensors(box))


def lfs(box):
    weights(box).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 562163\n")


def case(*row, **options):
    return Case(*row, **({"base": "torch"} | options))


def rows():
    yield case("P00", "written anew", rewrite(), 0, same=True)
    yield case("P00", "with protocol 4", rewrite(front=b"\x80\x04\x95" + struct.pack("<Q", 10)), 0, same=True)
    for which in EVIL:
        yield case("P01", f"{which} in a state dict", evil_entry(which), 65, named(which))
        yield case("P01", f"{which} in the legacy form", evil_legacy(which), 65, named(which))
        yield case("P01", f"{which} as a bare pickle", evil_alone(which), 65, named(which))
    yield case("P01", "a call for a storage's name", evil_storage_name, 65, r"os\.system")
    yield case("P01", "a persistent id that is text", rewrite(lambda content: made.text("x") + b"Pos.system\n" + content), 65, "PERSID")
    yield case("P01", "attributes for a tensor", one_tensor(lambda key, count: made.tensor(made.storage_id("HalfStorage", key, count), [count]) + b"}" + made.text("__setstate__") + b"Nsb"), 65, "attributes")
    for name in ("argparse\nNamespace", "numpy\ndtype", "torch._utils\n_rebuild_sparse_tensor"):
        yield case("P02", name.replace("\n", "."), rewrite(lambda content, name=name: made.text("x") + b"c" + name.encode() + b"\n)R" + content), 69, name.replace("\n", r"\."))
    yield case("P02", "a set", rewrite(lambda content: made.text("x") + b"\x8f" + content), 69, "EMPTY_SET")
    yield case("P03", "a flag bit in both headers", patched((local("archive/data.pkl", 6), b"\x01"), (central("archive/data.pkl", 8), b"\x01")), 65, r"\.bin.*data\.pkl")
    yield case("P03", "a flag bit in the local header", patched((local("archive/data.pkl", 6), b"\x01")), 65, r"data\.pkl")
    yield case("P03", "another checksum", patched((local("archive/data.pkl", 14), b"\1\2\3\4"), (central("archive/data.pkl", 16), b"\1\2\3\4")), 65, "checksum")
    yield case("P03", "DATA.PKL", member(0, filename="archive/DATA.PKL"), 65, r"data\.pkl")
    for name in ("../../x", "/x", "archive/../x", "archive/data/../../x", "archive//x", "archive\\x", "C:x"):
        yield case("P04", f"member {name}", added(name), 65, r"\.bin")
    yield case("P04", "member twice", added("archive/data/0"), 65, "twice")
    yield case("P04", "a link for a member", member(1, external_attr=0o120777 << 16), 65, "link")
    yield case("P05", "compressed", member(1, compress_type=zipfile.ZIP_DEFLATED), 65, "compressed")
    yield case("P05", "a million members", wide_end("count", 10 ** 6), 65, r"\.bin")
    yield case("P05", "an archive in it", added("archive/inner.zip", b"PK\5\6" + b"\0" * 18), 65, "inner")
    yield case("P06", "another name before the bytes", patched((local("archive/data/0", 30 + 8), b"XXXX")), 65, "archive")
    yield case("P06", "another size before the bytes", patched((local("archive/data/0", 22), b"\1\0\0\0")), 65, "data/0")
    yield case("P06", "two archives", two_ends, 65, r"\.bin")
    yield case("P06", "a comment", lambda box: grown(back=b"junk")(box), 65, r"\.bin")
    yield case("P06", "junk before it", lambda box: grown(front=b"PK\3\4junk")(box), 65, r"\.bin")
    for field in ("count", "size", "at"):
        for value in (2 ** 64 - 1, 2 ** 63):
            yield case("P06", f"64-bit {field} {value:#x}", wide_end(field, value), 65, r"\.bin")
    for keep in (0, 3, 30, 1000, 200_000, -1, -22, -100):
        yield case("P06", f"cut at {keep}", truncated(keep), 65, r"\.bin")
    yield case("P07", "one element too many", view([129], [1]), 65, NORM)
    yield case("P07", "begins one too late", view([128], [1], offset=1), 65, NORM)
    yield case("P07", "strides beyond the end", view([128], [2]), 65, NORM)
    yield case("P07", "a negative stride", view([128], [-1], offset=127), 65, NORM)
    yield case("P07", "a negative size", view([-128], [1]), 65, NORM)
    yield case("P07", "a negative offset", view([128], [1], offset=-1), 65, NORM)
    yield case("P07", "a size beyond 64 bits", view([2 ** 66], [0]), 65, NORM)
    yield case("P07", "sizes whose product wraps around", view([2 ** 33, 2 ** 33], [0, 0]), 65, NORM)
    yield case("P07", "a terabyte from one element", view([2 ** 39], [0]), 65, NORM)
    yield case("P07", "more elements than the member has", view([128], [1], elements=2 ** 40), 65, "storage")
    yield case("P07", "a storage of another width", view([128], [1], kind="FloatStorage"), 65, "storage")
    yield case("P07", "expanded, of another shape", view([64, 128], [0, 1]), 65, NORM)
    yield case("P08", "deep stack", rewrite(lambda content: made.text("x") + b"(" * 2_000_000 + content), 65, "pickle")
    yield case("P08", "many lists", rewrite(lambda content: made.text("x") + b"]0" * 3_000_000 + b"N" + content), 65, "pickle")
    yield case("P08", "a memo of 2^32", rewrite(lambda content: made.text("x") + b"Nr\xff\xff\xff\xff" + content), 65, "pickle")
    yield case("P08", "lists of lists, doubled 60 times", rewrite(lambda content: made.text("x") + b"]q\1" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(1, 61)) + content), 65, "pickle|state")
    for name, opcode in (("BINBYTES8", b"\x8e" + b"\xff" * 8), ("LONG4", b"\x8b" + b"\xff" * 4), ("BINUNICODE", b"X\xff\xff\xff\x7f")):
        yield case("P08", f"{name} of a size that is not there", rewrite(lambda content, opcode=opcode: made.text("x") + opcode + content), 65, "pickle")
    yield case("P09", "the legacy form", legacy, 0, same=True)
    yield case("P09", "the legacy form, big-endian", lambda box: legacy(box, little=b"\x89"), 69, "big-endian")
    yield case("P09", "the legacy form, cut", lambda box: (legacy(box), truncated(300_000)(box)), 65, "cut short")
    yield case("P09", "big-endian", added("archive/byteorder", b"big"), 69, "big")
    yield case("P09", "tar", tar, 69, "tar")
    yield case("P09", "out-of-band buffers", rewrite(lambda content: made.text("x") + b"\x97" + content), 69, "NEXT_BUFFER")
    yield case("P09", "TorchScript", added("archive/code/__torch__.py"), 69, "TorchScript")
    yield case("P10", "tied", tied, 0)
    yield case("P10", "expanded", one_tensor(lambda key, count: made.tensor(made.storage_id("HalfStorage", key, count), [128], [0])), 0)
    for key in ("state_dict", "model"):
        yield case("P11", f"under '{key}'", nested(key, epoch=b"K\x03", note=b"N"), 0, same=True)
    yield case("P11", "under a name of its own", nested("weights"), 65, "state dict")
    yield case("P11", "no tensors", lambda box: made.write_zip(weights(box), b"\x80\x02}.", []), 65, "state dict")
    yield case("P11", "an entry that is no tensor", rewrite(lambda content: made.text("x") + b"K\x01" + content), 0, same=True)
    yield case("P11", "a tensor twice", rewrite(lambda content: content + content), 65, "twice")
    yield case("P12", "shards and an index", sharded, 0, same=True)
    yield case("P12", "shards without an index", lambda box: sharded(box, index=False), 0, same=True)
    yield case("P12", "a shard is missing", shard_missing, 65, "00002-of-00003")
    yield case("P12", "a shard is missing, no index", shard_missing_without_index, 65, "00002-of-00003")
    for name in ("pytorch_model.bin", "qwen-4bit-128g.pt", "model.pth"):
        yield case("P12", f"called {name}", renamed(name), 0, same=True)
    yield case("P12", "named by model_file_base_name", base_name, 0, same=True)
    yield case("P12", "as GPTQ-for-LLaMa leaves it", gptq_for_llama, 0, same=True)
    yield case("P12", "a float original beside it", beside("pytorch_model.bin"), 0, same=True)
    yield case("P12", "safetensors beside it", beside_safetensors, 0, same=True)
    yield case("P12", "an optimiser beside it", beside("optimizer.pt"), 0, same=True)
    yield case("P12", "two files of equal standing", several, 65, "one.bin.*two.bin")
    yield case("P12", "safetensors called .bin", as_safetensors, 65, "rename")
    yield case("P12", "an LFS pointer", lfs, 65, "git lfs")
