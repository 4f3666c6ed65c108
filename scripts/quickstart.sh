#!/bin/sh
# Sets up, builds, and converts a bundled checkpoint that AutoGPTQ 0.7.1 wrote.
# Works on a bare Debian 12 as root.
set -eu
cd "$(dirname "$0")/.."
scripts/packages.sh
scripts/build.sh release -DQ2C_TESTS=OFF
out="demo-out/published-int4-g128-sharded"
mkdir -p demo-out
build/bin/qwen2-convert fixtures/published-int4-g128-sharded/checkpoint "$out" --target=transformers-4.x --target=transformers-5.x --force
(cd "$out" && sha256sum --quiet -c SHA256SUMS)
echo "sha256sum -c SHA256SUMS: all files match"
echo "the output lies in $PWD/$out:"
ls -l "$out"
