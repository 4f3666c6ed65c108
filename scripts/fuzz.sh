#!/bin/sh
# Fuzzes every target for a bounded time: fuzz.sh [--seconds=N] (each; default 60). Needs clang 14.
# New inputs go into build-asan/corpus, crashes into build-asan/; exits 1 at the first crash.
set -eu
cd "$(dirname "$0")/.."
seconds=60
case "${1:-}" in
  --seconds=*) seconds="${1#--seconds=}" ;;
  "") ;;
  *) echo "usage: fuzz.sh [--seconds=N]" >&2; exit 2 ;;
esac
scripts/packages.sh clang-14 libclang-rt-14-dev
scripts/build.sh asan
for target in build-asan/bin/fuzz_*; do
  name="${target##*/fuzz_}"
  mkdir -p "build-asan/corpus/$name"
  echo "fuzzing $name for $seconds s"
  "$target" -max_total_time="$seconds" -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 -artifact_prefix="build-asan/" \
    "build-asan/corpus/$name" "tests/fuzz/corpus/$name" 2>&1 | grep -E "^stat::number_of_executed_units|ERROR|SUMMARY" || true
  # grep hides the exit code: a crash leaves its input behind.
  if ls build-asan/crash-* build-asan/leak-* build-asan/oom-* build-asan/timeout-* >/dev/null 2>&1; then exit 1; fi
done
