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
    cmake=/usr/bin/cmake
    [ -x "$cmake" ] || cmake=cmake
    cd "$project"
    "$cmake" --preset release -G Ninja -DQ2C_TESTS=ON >/dev/null
    "$cmake" --build --preset release --target kernels_bench >&2
    exec build/bin/kernels_bench "$@"
    ;;
  *) exec /usr/bin/python3 "$project/tests/bench/bench.py" "$@" ;;
esac
