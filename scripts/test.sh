#!/bin/sh
# Sets up, builds and runs the whole test suite: test.sh [PRESET [ctest options]]. Default: release.
# Works on a bare Debian 12 as root.
set -eu
cd "$(dirname "$0")/.."
preset="${1:-release}"
[ $# -eq 0 ] || shift
[ "$preset" = asan ] && extra="clang-14 libclang-rt-14-dev" || extra=
scripts/packages.sh $extra
scripts/build.sh "$preset" -DQ2C_TESTS=ON  # quickstart.sh may have turned them off
folder=build
[ "$preset" = release ] || folder="build-$preset"
ctest --test-dir "$folder" --no-tests=error --output-on-failure -j "$(nproc)" "$@"
