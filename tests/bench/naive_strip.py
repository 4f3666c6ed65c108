"""What one would write in an afternoon: drop the all-zero biases with the safetensors package.

python3 naive_strip.py IN OUT      Only for comparison: no checks, no sync, a whole shard in memory.
"""
import glob
import json
import os
import shutil
import sys

from safetensors.numpy import load_file, save_file

src, out = sys.argv[1:]
os.makedirs(out)
weight_map, total = {}, 0
for path in sorted(glob.glob(src + "/*.safetensors")):
    name = os.path.basename(path)
    kept = {k: t for k, t in load_file(path).items() if not (k.endswith(".bias") and not t.any())}
    save_file(kept, os.path.join(out, name), metadata={"format": "pt"})
    weight_map.update(dict.fromkeys(kept, name))
    total += sum(t.nbytes for t in kept.values())
for name in os.listdir(src):
    if not name.endswith((".safetensors", ".index.json")):
        shutil.copy(os.path.join(src, name), out)
with open(out + "/model.safetensors.index.json", "w") as f:
    json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, f, indent=2)
