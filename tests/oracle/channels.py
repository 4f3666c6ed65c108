"""Makes, of a bundled checkpoint, one in which only the inputs of down_proj are scattered over the groups.

    channels.py FIXTURE_DIR OUT_DIR

The channels between gate/up and down are shuffled: the outputs of gate_proj and up_proj (codes, zero fields, scales) and
the inputs of down_proj (codes and g_idx) in the same way. So every group of down_proj keeps its members, its zero points and
its scales, and the model computes what it computed: `expected` stays true. This is how a checkpoint looks that was quantised
with act-order for down_proj only. What numbers the channels is packed from the description of GPTQ, apart from the converter.
"""

import json
import pathlib
import shutil
import sys

import numpy as np

from decode import Tensor, bit_stream, read_file
from made import pack


def stored(array):
    dtype = {"int32": "I32", "float16": "F16"}[str(array.dtype)]
    return Tensor(dtype, array.shape, np.ascontiguousarray(array).tobytes())


def shuffle_outputs(part, bits, order):
    return {"qweight": stored(part["qweight"].array()[:, order]), "scales": stored(part["scales"].array()[:, order]),
            "qzeros": stored(pack(bit_stream(part["qzeros"].array(), bits)[:, order], bits))}


def shuffle_inputs(part, bits, order):
    codes = bit_stream(part["qweight"].array().T, bits)[:, order]
    return {"qweight": stored(np.ascontiguousarray(pack(codes, bits).T)), "g_idx": stored(part["g_idx"].array()[order])}


def scatter(tensors, bits, seed=5):
    """The tensors of a checkpoint, with the channels of every gate/up/down shuffled."""
    generator = np.random.default_rng(seed)
    made = dict(tensors)
    for down in sorted(name.removesuffix(".qweight") for name in tensors if name.endswith("down_proj.qweight")):
        order = generator.permutation(tensors[f"{down}.g_idx"].shape[0])
        for name in (down, *(down.removesuffix("down_proj") + feeder for feeder in ("gate_proj", "up_proj"))):
            part = {suffix: tensors[f"{name}.{suffix}"] for suffix in ("qweight", "qzeros", "scales", "g_idx")}
            change = (shuffle_inputs if name == down else shuffle_outputs)(part, bits, order)
            made.update({f"{name}.{suffix}": tensor for suffix, tensor in change.items()})
    return made


def write(fixture, folder):
    fixture, folder = pathlib.Path(fixture), pathlib.Path(folder)
    shutil.copytree(fixture / "checkpoint", folder / "checkpoint")
    shutil.copyfile(fixture / "expected.safetensors", folder / "expected.safetensors")
    config = json.loads((folder / "checkpoint/config.json").read_text())
    for path in (folder / "checkpoint").glob("*.safetensors"):
        header, at, data = {"__metadata__": {"format": "pt"}}, 0, []
        for name, tensor in scatter(read_file(path), config["quantization_config"]["bits"]).items():
            header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, at + len(tensor.raw)]}
            at += len(tensor.raw)
            data.append(tensor.raw)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))
    for name in ("config.json", "quantize_config.json"):
        path = folder / "checkpoint" / name
        if path.exists():
            settings = json.loads(path.read_text())
            settings.get("quantization_config", settings)["desc_act"] = True
            path.write_text(json.dumps(settings, indent=2))


SOURCES = ("autogptq-0.7.1-int4-g64-static-actorder", "autogptq-0.7.1-int4-g32-asym-tied", "autogptq-0.7.1-moe-int4-g64", "autogptq-0.7.1-int8-g128-sym-tied")


def write_all(fixtures, root):
    """Folders like those of fixtures."""
    folders = []
    for name in SOURCES:
        write(fixtures / name, root / f"scattered-down-{name}")
        folders.append(root / f"scattered-down-{name}")
    return folders


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write(*sys.argv[1:])
