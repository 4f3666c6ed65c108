#!/usr/bin/env bash
# What the tool promises of its proof, shown on every bundled checkpoint, in one command:
#   scripts/proof.sh
# the forward pass beside the logits that transformers computed; fingerprints that a second implementation
# computes, equal across layouts, changed by every single bit; conversions undone to the byte; and damage to one
# bit of what was written, caught by each kind of verification. Needs a release build with its tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=build/bin
echo "== forward pass beside expected.safetensors"
"$bin/unit_tests" --gtest_brief=1 --gtest_filter='*Forward*:*Proof*'
echo "== fingerprints"
/usr/bin/python3 tests/oracle/check_fingerprint.py fixtures "$bin/qwen2-convert" "$bin/qwen2-audit"
echo "== undo"
/usr/bin/python3 tests/undo/run.py --binary="$bin/qwen2-convert"
echo "== one flipped bit"
damage=model.layers.1.mlp.up_proj.qweight:4097
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for level in hash exact forward; do
  code=0
  "$bin/qwen2-convert" fixtures/published-int4-g128-sharded/checkpoint "$out/model" --target=transformers-4.x --verify="$level" --test-damage="$damage" --quiet 2>"$out/said" || code=$?
  echo "--verify=$level: exit $code: $(cat "$out/said")"
  [[ $code == 1 && ! -e $out/model ]] && grep -q up_proj "$out/said"
done
