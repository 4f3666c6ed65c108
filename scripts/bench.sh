#!/bin/sh
# Runs a benchmark; options go to its program (see --help):
#   bench.sh [options]          a strip beside cp and others (tests/bench/bench.py)
#   bench.sh repack [options]   repacks beside cp and the nearest peers (tests/bench/repack.py)
#   bench.sh kernels [options]  codecs, hashes and the product of the forward pass (tests/bench/kernels.cc)
set -eu
project="$(dirname "$0")/.."
case "${1:-}" in
  repack)
    shift
    exec /usr/bin/python3 "$project/tests/bench/repack.py" "$@"
    ;;
  kernels)
    shift
    "$project/scripts/packages.sh" libbenchmark-dev
    TARGET=kernels_bench "$project/scripts/build.sh" release -DQ2C_TESTS=ON >&2
    exec "$project/build/bin/kernels_bench" "$@"
    ;;
  *) exec /usr/bin/python3 "$project/tests/bench/bench.py" "$@" ;;
esac
