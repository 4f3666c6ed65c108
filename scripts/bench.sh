#!/bin/sh
# Runs the benchmark; all options go to tests/bench/bench.py (see --help).
exec /usr/bin/python3 "$(dirname "$0")/../tests/bench/bench.py" "$@"
