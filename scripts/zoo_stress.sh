#!/bin/sh
# A zoo of 1,000 small checkpoints, four workers, fifty of them killed at random, and the other things
# that happen to workers: zoo_stress.sh [MODELS [KILLS]]. Prints the figures; takes some minutes.
set -eu
cd "$(dirname "$0")/.."
[ -x build/bin/qwen2-zoo ] || scripts/build.sh release -DQ2C_TESTS=ON
exec python3 tests/zoo/run.py --binary=build/bin/qwen2-zoo --models="${1:-1000}" --kills="${2:-50}" --workers=4
