"""I01-I18: the index, the files of the folder, and where the output may go."""

import os
import shutil

from case import Case
from checkpoint import (INDEX, SHARD, edit_index, edit_tensors, edit_weight_map, read_tensors, refresh_index,
                        rename_to_model, write_sparse, write_tensors)

FILE = r"model-00003-of-00003\.safetensors"
NORM = "model.norm.weight"


def entry(value):
    """The index says that the last norm is in `value`."""
    return lambda box: edit_weight_map(box, lambda weight_map: weight_map.update({NORM: value}))


def moved_to(place, write):
    """Shard 3 really is at `place`, and the index points there; only the path is at fault."""
    def damage(box):
        path = box.input / place
        path.parent.mkdir(exist_ok=True)
        shutil.copy(box.shard(3), path)
        edit_weight_map(box, lambda weight_map: [weight_map.update({name: write(path)}) for name, file in weight_map.items() if file == SHARD.format(3)])
    return damage


def link_to(target, options=()):
    def damage(box):
        shard, outside = box.shard(3), box.root / "outside.safetensors"
        shard.rename(outside)
        shard.symlink_to(outside if target is None else target)
        box.options.extend(options)
    return damage


def hub(box):
    """The cache of the Hub: blobs named by their hash, a snapshot of links to them."""
    blobs, snapshot = box.root / "in/hub/models--org--name/blobs", box.root / "in/hub/models--org--name/snapshots/0123abcd"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in box.input.iterdir() if p.is_file())):
        path.rename(blobs / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    box.input = snapshot


def gap(box):
    (box.input / INDEX).unlink()
    box.shard(2).unlink()


def twice(change):
    def damage(box):
        dtype, dimensions, raw = read_tensors(box.shard(3))[NORM]
        edit_tensors(box.shard(1), lambda tensors: tensors.update({NORM: (dtype, dimensions, change(raw))}))
    return damage


def metadata(value):
    return lambda box: edit_index(box, lambda index: index.update(metadata=value))


def pickles(box):
    (box.input / "pytorch_model.bin").write_bytes(b"PK\3\4" + b"\0" * 100)
    edit_weight_map(box, lambda weight_map: weight_map.update(dict.fromkeys(weight_map, "pytorch_model.bin")))


def both_and_different(box):
    """A single file with all tensors, one of them changed, beside the sharded form of the same model."""
    tensors = {name: tensor for number in (1, 2, 3) for name, tensor in read_tensors(box.shard(number)).items()}
    dtype, dimensions, raw = tensors[NORM]
    tensors[NORM] = (dtype, dimensions, b"\0" + raw[1:])
    write_tensors(box.input / "model.safetensors", tensors)


def extras(*names):
    def damage(box):
        edit_tensors(box.shard(), lambda tensors: tensors.update({name: ("F16", [1], b"\0\0") for name in names}))
        box.options.extend("--drop=" + name for name in names)
    return damage


def one_tensor_a_shard(box):
    """The model in as many files as it has tensors."""
    rename_to_model(box)
    tensors = read_tensors(box.input / "model.safetensors")
    (box.input / "model.safetensors").unlink()
    for number, (name, tensor) in enumerate(tensors.items(), 1):
        write_tensors(box.input / f"model-{number:05}-of-{len(tensors):05}.safetensors", {name: tensor})
    refresh_index(box)
    box.max_open_files = 32


def many_shards(box):
    """5000 further shards of one tensor each: far more than may be open at a time."""
    for number in range(5000):
        write_tensors(box.input / f"extra-{number:05}.safetensors", {f"extra.{number:05}": ("F16", [1], b"\0\0")})
    refresh_index(box)
    box.options.append("--drop=extra.*")
    box.max_open_files = 64


def nested_model(box):
    shutil.copytree(box.input, box.root / "copy")
    (box.root / "copy").rename(box.input / "nested")


def out_at(place):
    return lambda box: setattr(box, "out", place(box))


def out_filled(box):
    box.out.mkdir()
    (box.out / "precious.txt").write_text("keep me")


def out_link(box):
    (box.parent / "elsewhere").mkdir()
    box.out.symlink_to("elsewhere")


def read_only_parent(box):
    box.as_nobody = True
    box.parent.chmod(0o555)


def not_utf8(box):
    with open(os.fsencode(box.input) + b"/note\xff.txt", "w") as file:
        file.write("note")


def text(old, new):
    def damage(box):
        path = box.input / INDEX
        before = path.read_text()
        path.write_text(before.replace(old, new, 1))
        assert path.read_text() != before
    return damage


def rows():
    yield Case("I01", "../b/shard", moved_to("../b/model-00003-of-00003.safetensors", lambda path: "../b/" + path.name), 65, r"\.\.")
    yield Case("I01", "../../b/model.safetensors", entry("../../b/model.safetensors"), 65, r"\.\.")
    yield Case("I02", "absolute path", moved_to("../b/model-00003-of-00003.safetensors", str), 65, "absolute|/")
    yield Case("I02", "drive letter", entry("C:\\x\\model.safetensors"), 65, "C:")
    yield Case("I02", "a/../b", entry("a/../" + SHARD.format(3)), 65, r"\.\.")
    yield Case("I02", "sub-directory", moved_to("sub/model-00003-of-00003.safetensors", lambda path: "sub/" + path.name), 65, "sub")
    for label, value in (("NUL inside", SHARD.format(3) + "\0x"), ("empty", ""), ("a number", 3), ("null", None), (".", "."), ("..", "..")):
        yield Case("I03", f"file name is {label}", entry(value), 65, r"index|weight_map|" + NORM)
    yield Case("I04", "link outside", link_to(None), 65, FILE)
    yield Case("I04", "link outside, followed on request", link_to(None, ["--follow-links"]), 0, same=True)
    yield Case("I04", "link to /etc/passwd", link_to("/etc/passwd"), 65, FILE)
    yield Case("I04", "link to itself", link_to(SHARD.format(3)), 65, FILE)
    yield Case("I04", "dangling link", link_to("nowhere.safetensors"), 65, FILE)
    yield Case("I04", "dangling link, followed", link_to("nowhere.safetensors", ["--follow-links"]), 65, FILE)
    yield Case("I05", "links into the Hub's blobs", hub, 0, same=True)
    yield Case("I06", "shard absent", lambda box: box.shard(3).unlink(), 65, FILE)
    yield Case("I06", "shards 1 and 3 of 3, no index", gap, 65, "model-0000|missing")
    yield Case("I07", "listed in a shard that lacks it", entry(SHARD.format(1)), 65, NORM)
    yield Case("I07", "listed, but in no shard", lambda box: edit_weight_map(box, lambda w: w.update({"model.ghost": SHARD.format(3)})), 65, "model.ghost")
    yield Case("I08", "stored, but not listed", lambda box: edit_weight_map(box, lambda w: w.pop(NORM)), 65, NORM)
    yield Case("I09", "in two shards, same bytes", twice(bytes), 0, same=True)
    yield Case("I09", "in two shards, different bytes", twice(lambda raw: b"\0" + raw[1:]), 65, NORM)
    yield Case("I10", "no total_size", metadata({}), 0, same=True)
    yield Case("I10", "no metadata", lambda box: edit_index(box, lambda index: index.pop("metadata")), 0, same=True)
    yield Case("I10", "total_size wrong", metadata({"total_size": 1}), 0, same=True)
    # transformers 5.23 loads each of these, so none is a reason to refuse
    for value in (-1, 2 ** 70, None, "abc", 1.5):
        yield Case("I10", f"total_size {value}", metadata({"total_size": value}), 0, same=True)
    yield Case("I11", "no weight_map", lambda box: edit_index(box, lambda index: index.pop("weight_map")), 65, "weight_map")
    yield Case("I11", "weight_map is an array", lambda box: edit_index(box, lambda index: index.update(weight_map=[])), 65, "weight_map")
    yield Case("I11", "key twice", text('"weight_map": {', f'"weight_map": {{"{NORM}": "{SHARD.format(3)}",'), 65, NORM)
    yield Case("I11", "no JSON", lambda box: (box.input / INDEX).write_text("{"), 65, "index")
    # a folder is no index; to pass it over is right too, since the shards hold all that is needed
    yield Case("I11", "index is a directory", lambda box: ((box.input / INDEX).unlink(), (box.input / INDEX).mkdir()), (0, 65), "index", same=True)
    yield Case("I12", "index names a pickle", pickles, 69, r"\.bin")
    yield Case("I13", "single file and index disagree", both_and_different, 65, r"model\.safetensors")
    yield Case("I14", "names differ by case", extras("Model.Norm.weight"), 0, base="single", same=True)
    yield Case("I14", "names differ by normal form", extras("extra.\u00e9", "extra.e\u0301"), 0, base="single", same=True)
    yield Case("I15", "one tensor a shard, 32 files open", one_tensor_a_shard, 0, base="single", same=True)
    yield Case("I15", "5000 further shards, 64 files open", many_shards, 0, same=True, seconds=20)
    yield Case("I16", "large unrelated file", lambda box: write_sparse(box.input / "optimizer.pt", 200 * 10 ** 6), 0, same=True)
    yield Case("I16", "another model in a sub-directory", nested_model, 0, same=True)
    yield Case("I17", "output is the input", out_at(lambda box: box.input), 2)
    yield Case("I17", "output inside the input", out_at(lambda box: box.input / "out"), 2)
    yield Case("I17", "output around the input", out_at(lambda box: box.root), 2)
    yield Case("I17", "output not empty", out_filled, 2, "out")
    yield Case("I17", "output is a link", out_link, 2, "out")
    yield Case("I17", "parent read-only", read_only_parent, 77, "parent|out")
    yield Case("I18", "file name not UTF-8", not_utf8, 65, "note")
