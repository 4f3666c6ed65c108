#!/bin/sh
# Runs clang-tidy over all of our sources; exits 1 on any warning. Needs a configured release build.
set -eu
cd "$(dirname "$0")/.."
scripts/packages.sh clang-tidy-14
[ -f build/compile_commands.json ] || scripts/build.sh release
find formats convert verify -name '*.cc' -print0 | xargs -0 -n 4 -P "$(nproc)" clang-tidy-14 -p build --quiet --warnings-as-errors='*' --extra-arg=-Wno-unknown-warning-option
echo "clang-tidy: no warnings"
