#!/bin/sh
# Fuzzes every target for a bounded time: fuzz.sh [--seconds=N] (each; default 60). Needs clang 14.
# New inputs go into build-fuzz/corpus, crashes into build-fuzz/; exits 1 at the first crash.
set -eu
cd "$(dirname "$0")/.."
seconds=60
case "${1:-}" in
  --seconds=*) seconds="${1#--seconds=}" ;;
  "") ;;
  *) echo "usage: fuzz.sh [--seconds=N]" >&2; exit 2 ;;
esac
scripts/packages.sh clang-14 libclang-rt-14-dev
scripts/build.sh fuzz
for target in build-fuzz/bin/fuzz_*; do
  name="${target##*/fuzz_}"
  mkdir -p "build-fuzz/corpus/$name"
  echo "fuzzing $name for $seconds s"
  "$target" -max_total_time="$seconds" -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 -artifact_prefix="build-fuzz/" \
    "build-fuzz/corpus/$name" "tests/fuzz/corpus/$name" 2>&1 | grep -E "^stat::number_of_executed_units|ERROR|SUMMARY" || true
  # grep hides the exit code: a crash leaves its input behind.
  if ls build-fuzz/crash-* build-fuzz/leak-* build-fuzz/oom-* build-fuzz/timeout-* >/dev/null 2>&1; then exit 1; fi
done
