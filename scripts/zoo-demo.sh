#!/bin/sh
# Sets up, builds, and re-exports a zoo of the bundled checkpoints: some are refused, and the report says why.
# Works on a bare Debian 12 as root.
set -eu
cd "$(dirname "$0")/.."
scripts/packages.sh
scripts/build.sh release -DQ2C_TESTS=OFF
rm -rf demo-zoo
mkdir -p demo-zoo/zoo
for checkpoint in fixtures/*/checkpoint fixtures/foreign/*/checkpoint; do
  cp -r "$checkpoint" "demo-zoo/zoo/$(basename "$(dirname "$checkpoint")")"
done
cd demo-zoo
# 'plan' and 'run' exit with 1 where a model is refused or fails.
../build/bin/qwen2-zoo plan zoo out --target=vllm > plan.jsonl || [ $? -eq 1 ]
../build/bin/qwen2-zoo run plan.jsonl || [ $? -eq 1 ]
../build/bin/qwen2-zoo verify plan.jsonl
../build/bin/qwen2-zoo report plan.jsonl
../build/bin/qwen2-zoo report plan.jsonl --html=report.html
echo "the report, as a page: $PWD/report.html"
if [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && command -v xdg-open >/dev/null; then xdg-open report.html || true; fi
