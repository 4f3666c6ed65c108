#!/bin/sh
# Shows by force that nothing is lost, nothing half-written and nothing let in, and prints the counts:
#   robustness.sh [--quick] [--seconds=N]
# Faults, kills, losses of power, full disks, changing inputs and flipped bits (tests/faults), malformed checkpoints through the
# three programs, then each fuzz target for N seconds (default 60; --quick: 10, and a part of the rest).
# Exit code 1 if anything failed, 3 if a part could not be run.
set -u
cd "$(dirname "$0")/.."
every=1 flips=10000 seconds=60 step=1
for argument in "$@"; do
  case "$argument" in
    --quick) every=40 flips=200 seconds=10 step=7 ;;
    --seconds=*) seconds="${argument#--seconds=}" ;;
    *) echo "usage: robustness.sh [--quick] [--seconds=N]" >&2; exit 2 ;;
  esac
done
scripts/packages.sh || exit 3
scripts/build.sh release -DQ2C_TESTS=ON || exit 3
bin=build/bin
worst=0
part() {
  "$@"
  code=$?
  [ "$code" -eq 0 ] || [ "$worst" -eq 1 ] || worst=$code
}
part /usr/bin/python3 tests/faults/run.py --convert=$bin/qwen2-convert --audit=$bin/qwen2-audit --zoo=$bin/qwen2-zoo \
  --library=build/tests/libfaults_preload.so --every=$every --flips=$flips
echo "malformed checkpoints through qwen2-convert:"
part /usr/bin/python3 tests/malformed/run.py --binary=$bin/qwen2-convert
echo "malformed checkpoints through qwen2-audit:"
part /usr/bin/python3 tests/audit/run.py --binary=$bin/qwen2-audit --convert=$bin/qwen2-convert --every=$step malformed
echo "malformed checkpoints through qwen2-zoo:"
part /usr/bin/python3 tests/zoo/malformed.py --zoo=$bin/qwen2-zoo --convert=$bin/qwen2-convert --every=$step
part scripts/fuzz.sh --seconds="$seconds"
exit "$worst"
