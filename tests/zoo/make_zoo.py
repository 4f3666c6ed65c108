"""Makes a zoo of small checkpoints from the fixtures: hard links and copies, some of them broken.

    make_zoo.py FOLDER COUNT [--seed=N]

Prints a JSON object: path of each model below FOLDER -> what must become of it for the target
compressed-tensors: "done", or the finding that it must be refused or fail with.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "fixtures"
TARGET = "--target=compressed-tensors"
# Fixtures that compressed-tensors can hold exactly, of several makers and containers.
SOUND = (
    "autogptq-0.3.2-int4-g64", "autogptq-0.7.1-int2-g64-asym", "autogptq-0.7.1-int3-g128-sym", "autogptq-0.7.1-int4-g128-sym", "autogptq-0.7.1-int4-g32-asym-tied",
    "autogptq-0.7.1-int4-g64-static-actorder", "autogptq-0.7.1-int8-g128-sym-tied", "autogptq-0.7.1-moe-int4-g64", "gptqmodel-7.7-awq-g64", "gptqmodel-7.7-int4-g128",
    "gptqmodel-7.7-qwen3-int4-g64", "optimum-1.19.2-int4-g128-sharded", "published-int4-g128-sharded", "published-int8-g128-tied", "resaved-transformers-4.57-int4-g32-asym",
    "resaved-transformers-5.23-int4-g128", "foreign/autoawq-0.2.9-gemm-g128", "foreign/autogptq-0.7.1-marlin-g128", "foreign/compressed-tensors-0.20-int4-g128", "foreign/llama.cpp-q4_0",
)
ACT_ORDER = "autogptq-0.7.1-int4-g64-actorder"  # compressed-tensors cannot hold its groups


def link_tree(source, target):
    """Hard links where that is possible: a thousand models must not be a thousand times the bytes."""
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copyfile(path, target / path.name)


def own(path):
    """Makes a hard-linked file one of its own, so that it can be changed."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return data


def weights(folder):
    return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf"))[0]


def break_cut(folder, _):
    """A download that ended early."""
    data = own(weights(folder))
    weights(folder).write_bytes(data[: len(data) // 2])
    return "planned"


def break_config(folder, _):
    (folder / "config.json").unlink()
    (folder / "config.json").write_text('{"model_type": "qwen2", ')
    return "planned"


def break_missing(folder, _):
    weights(folder).unlink()
    return "planned"


def break_architecture(folder, _):
    """Of a type that is not known, which is refused without --arch=generic."""
    config = json.loads(own(folder / "config.json"))
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    return "planned"


BREAKERS = (break_cut, break_config, break_missing, break_architecture)


def make(folder, count, seed):
    rng = random.Random(seed)
    expected = {}
    for number in range(count):
        path = f"{rng.choice(('alpha', 'beta', 'gamma/deep', 'models'))}/model-{number:04d}"
        kind = number % 20
        if kind in (7, 17):
            link_tree(FIXTURES / "published-int4-g128-sharded" / "checkpoint", folder / path)
            expected[path] = rng.choice(BREAKERS)(folder / path, rng)
        elif kind == 13:
            link_tree(FIXTURES / ACT_ORDER / "checkpoint", folder / path)
            expected[path] = "planned"
        else:
            link_tree(FIXTURES / rng.choice(SOUND) / "checkpoint", folder / path)
            expected[path] = "done"
    # A Hub cache: links into a folder of blobs.
    snapshot = "models--org--name/snapshots/0123456789abcdef"
    blobs = folder / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    (folder / snapshot).mkdir(parents=True)
    for source in sorted((FIXTURES / "published-int4-g128-sharded" / "checkpoint").iterdir()):
        blob = hashlib.sha256(source.read_bytes()).hexdigest()
        shutil.copyfile(source, blobs / blob)
        os.symlink(f"../../blobs/{blob}", folder / snapshot / source.name)
    expected[snapshot] = "done"
    return expected


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps(make(arguments.folder, arguments.count, arguments.seed), indent=1))
