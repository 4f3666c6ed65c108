#!/bin/sh
# Measures; options go to the program (see --help):
#   bench.sh [options]          every target of speed and memory in one table: measured, limit, pass or MISS (tests/bench/targets.py)
#   bench.sh strip [options]    a strip beside cp and others, in detail (tests/bench/strip.py)
#   bench.sh repack [options]   repacks beside cp and the nearest peers (tests/bench/repack.py)
#   bench.sh audit [options]    an audit that reads every byte beside sha256sum (tests/bench/audit.py)
#   bench.sh kernels [options]  codecs, hashes and the product of the forward pass (tests/bench/kernels.cc)
set -eu
project="$(dirname "$0")/.."
case "${1:-}" in
  strip | repack | audit)
    program="$1"
    shift
    exec /usr/bin/python3 "$project/tests/bench/$program.py" "$@"
    ;;
  kernels)
    shift
    "$project/scripts/packages.sh" libbenchmark-dev
    TARGET=kernels_bench "$project/scripts/build.sh" release -DQ2C_TESTS=ON >&2
    exec "$project/build/bin/kernels_bench" "$@"
    ;;
  *) exec /usr/bin/python3 "$project/tests/bench/targets.py" "$@" ;;
esac
