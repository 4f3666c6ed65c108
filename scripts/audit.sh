#!/usr/bin/env bash
# What issue trackers ask of an audit, in one command:
#   scripts/audit.sh [OUT]
# every finding on its broken checkpoint and silent on the good ones; the forecast beside what the loaders did; the
# speed beside sha256sum; and in OUT (default: build/audit) the HTML reports of three fixtures, to be looked at.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-$project/build/audit}
bin=$project/build/bin
/usr/bin/python3 "$project/tests/audit/run.py" --binary="$bin/qwen2-audit" --convert="$bin/qwen2-convert" table fixtures converted
/usr/bin/python3 "$project/tests/interop/forecast.py" --audit="$bin/qwen2-audit" --tool="$bin/qwen2-convert"
/usr/bin/python3 "$project/tests/bench/audit.py" --bin="$bin/qwen2-audit" || echo "audit.sh: the speed missed its target or could not be measured" >&2
mkdir -p "$out"
for fixture in foreign/autoawq-0.2.9-gemm-g128 autogptq-0.7.1-int4-g32-asym-wrapped-zeros resaved-transformers-5.23-int4-g128; do
  report=$out/$(basename "$fixture").html
  "$bin/qwen2-audit" "$project/fixtures/$fixture/checkpoint" --read-data --report="$report" >/dev/null || true
  echo "report: $report"
done
