#!/bin/sh
# Configures and builds one preset: build.sh [PRESET] [cmake options]. Default: release. $TARGET: only that.
set -eu
cd "$(dirname "$0")/.."
preset="${1:-release}"
[ $# -eq 0 ] || shift
# Debian's cmake, whatever else is on PATH; a build folder made on another machine is made anew.
cmake=/usr/bin/cmake
[ -x "$cmake" ] || cmake=cmake
"$cmake" --preset "$preset" -G Ninja "$@" >/dev/null
"$cmake" --build --preset "$preset" ${TARGET:+--target "$TARGET"}
