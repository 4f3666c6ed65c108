#!/usr/bin/python3
"""Holds the manifests of converted fixtures against manifest.schema.json, and checks that they
name no time, host or path: check_manifest.py BINARY"""

import json
import pathlib
import subprocess
import sys
import tempfile

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ["published-int4-g128-sharded", "published-int8-g128-tied", "gptqmodel-7.7-int4-g64-asym-v2", "optimum-1.19.2-int4-g128-sharded"]


def main(binary):
    schema = json.loads((ROOT / "formats/manifest.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for fixture in FIXTURES:
        for target in ["transformers-4.x", "optimum-1.19"]:
            with tempfile.TemporaryDirectory() as folder:
                out = pathlib.Path(folder, "out")
                subprocess.run([binary, ROOT / "fixtures" / fixture / "checkpoint", out, f"--target={target}", "--quiet"], check=True)
                text = (out / "qwen2-convert.manifest.json").read_text()
                jsonschema.validate(json.loads(text), schema)
                assert folder not in text and str(ROOT) not in text, f"{fixture}: a local path in the manifest"
    # The schema itself must be able to refuse.
    broken = json.loads(text)
    broken["tensors"][0]["action"] = "guess"
    try:
        jsonschema.validate(broken, schema)
    except jsonschema.ValidationError:
        return 0
    raise AssertionError("the schema accepts anything")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
