#!/bin/sh
# Fuzzes every target for a bounded time: fuzz.sh [--seconds=N|--hours=N] [TARGET...] (each; default 60 s, all targets), as many at a time as
# there are cores. Needs clang 14. New inputs go into build-asan/corpus, crashes into build-asan/; exits 1 if there is any.
set -eu
cd "$(dirname "$0")/.."
seconds=60
names=
for argument in "$@"; do
  case "$argument" in
    --seconds=*) seconds="${argument#--seconds=}" ;;
    --hours=*) seconds=$((3600 * ${argument#--hours=})) ;;
    -*) echo "usage: fuzz.sh [--seconds=N|--hours=N] [TARGET...]" >&2; exit 2 ;;
    *) names="$names $argument" ;;
  esac
done
scripts/packages.sh clang-14 libclang-rt-14-dev
scripts/build.sh asan
[ -n "$names" ] || names="$(cd build-asan/bin && echo fuzz_* | sed 's/fuzz_//g')"
for name in $names; do mkdir -p "build-asan/corpus/$name"; done
# What a target prints is shown only where it failed.
# shellcheck disable=SC2016
echo "$names" | xargs -n 1 -P "$(nproc)" sh -c '
  log="build-asan/corpus/$1.log"
  build-asan/bin/fuzz_$1 -max_total_time='"$seconds"' -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 -artifact_prefix="build-asan/" \
    "build-asan/corpus/$1" "tests/fuzz/corpus/$1" >"$log" 2>&1 || { cat "$log"; exit 1; }
  echo "$1: $(sed -n "s/^stat::number_of_executed_units: *//p" "$log") executions, no finding"' fuzz
