#!/bin/bash
# Prints the transcript in README.md: a bundled checkpoint that AutoGPTQ 0.7.1 wrote, before and after.
#   transcript.sh [FOLDER]    FOLDER holds the programs (default: build/bin, as scripts/build.sh makes it)
set -eu
cd "$(dirname "$0")/.."
PATH="$(realpath "${1:-build/bin}"):$PATH"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cp -r fixtures/published-int4-g128-sharded/checkpoint "$work/old"
cd "$work"
while read -r command; do
  echo "\$ $command"
  eval "$command"
done <<'COMMANDS'
qwen2-audit old | grep -E "^old|made by|t4.57|t5"
qwen2-convert old new --target=transformers-4.x --target=transformers-5.x 2> plan.txt | grep -E "^'new|^forward"
grep "drop (zero-bias)" plan.txt
qwen2-audit new | grep -E "^new|made by|t4.57|t5"
COMMANDS
