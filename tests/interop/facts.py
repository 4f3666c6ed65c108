"""What limits.py judges refusals by: facts.py FIXTURE... prints {"name": {fact: value}} as JSON.

model_type (as the output says it: first-generation Qwen becomes qwen2), vision, head ("score" of a classifier), tied (one
matrix for embedding and head), and container: "gguf", or "tensors" (safetensors or PyTorch files). For tensors also,
over all quantised linears: bits, symmetric (every zero point is 2^(bits-1)), zero_0 (some zero point is 0), act_order
(some input is out of order), shapes ([inputs, outputs, groups], each once), scales (their dtypes), int8 (every code
minus zero point fits), fractional (some zero point is no whole number), embeddings (embedding or head quantised too).
"""
import json
import pathlib
import sys

sys.dont_write_bytecode = True
import grids  # noqa: E402
import families  # noqa: E402, found by grids


def facts(checkpoint):
    path = checkpoint / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {"model_type": "qwen2"}
    config = families.flat_config(config)
    common = {"model_type": {"qwen": "qwen2"}.get(config["model_type"], config["model_type"]),
              "vision": "vision_config" in config,
              "head": families.head_of(config)[0], "tied": config.get("tie_word_embeddings", False)}
    if any(checkpoint.glob("*.gguf")):
        return common | {"container": "gguf"}
    linears, _ = grids.read(checkpoint)
    all_grids = list(linears.values())
    return common | {
        "container": "tensors",
        "bits": all_grids[0].bits,
        "symmetric": all((grid.zero == 2 ** (grid.bits - 1)).all() for grid in all_grids),
        "zero_0": any((grid.zero == 0).any() for grid in all_grids),
        "act_order": any(grid.act_order for grid in all_grids),
        "shapes": sorted({(*grid.codes.shape[::-1], grid.groups) for grid in all_grids}),
        "scales": sorted({grid.scale_dtype for grid in all_grids}),
        "int8": all((abs(grid.codes - grid.zero + 0.5) < 128).all() for grid in all_grids),
        "fractional": any((grid.offset is not None) and (grid.offset != -grid.scale * grid.zero).any()
                          for grid in all_grids),
        "embeddings": any(name in linears for name in ("model.embed_tokens", "lm_head")),
    }


found = {pathlib.Path(path).name: facts(pathlib.Path(path) / "checkpoint") for path in sys.argv[1:]}
print(json.dumps(found, default=bool))
