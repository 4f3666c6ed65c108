#!/bin/sh
# Measures which lines of formats/ and verify/ the tests run, and prints them by file, then every line that none runs:
#   coverage.sh [ctest options]
# Builds into build-coverage/ with the compiler's own counters. What is left over is argued in tests/COVERAGE.md.
set -eu
cd "$(dirname "$0")/.."
scripts/packages.sh gcovr
cmake=/usr/bin/cmake
[ -x "$cmake" ] || cmake=cmake
"$cmake" --preset coverage -G Ninja -DQ2C_TESTS=ON >/dev/null
"$cmake" --build --preset coverage
find build-coverage -name '*.gcda' -delete
ctest --test-dir build-coverage --no-tests=error --output-on-failure -j "$(nproc)" -E '^(oracle|bench_quick)$' "$@"
gcovr --root . --object-directory build-coverage --filter formats/ --filter verify/ --exclude-throw-branches --print-summary
