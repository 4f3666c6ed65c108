#!/bin/sh
# Runs a benchmark; options go to its program (see --help):
#   bench.sh [options]         a strip beside cp and others (tests/bench/bench.py)
#   bench.sh repack [options]  repacks beside cp and the nearest peers (tests/bench/repack.py)
program=bench.py
if [ "${1:-}" = repack ]; then
  program=repack.py
  shift
fi
exec /usr/bin/python3 "$(dirname "$0")/../tests/bench/$program" "$@"
