#!/usr/bin/env bash
# Loads the fixtures in the real loaders, before and after a conversion, and prints the table:
#   scripts/interop.sh [--stacks=LIST] [--fixtures=LIST] [--markdown=FILE] [--json=FILE]
# Stacks: t4.40-o1.19 t4.40-o1.20 t4.57 t5 (default: all four), kept in $QWEN2_INTEROP_DIR.
#
# Or converts every fixture for every target, and has each output read by the libraries it is for:
#   scripts/interop.sh --matrix [--stacks=LIST] [--targets=LIST] [--fixtures=LIST] [--markdown=FILE] [--json=FILE]
# Stacks: peers (compressed-tensors, gguf, mlx) t5 t4.40-o1.20 llama vllm (default: all five).
#
# Or holds the forecast of qwen2-audit against these loaders, predicted beside seen; with --recorded against what was seen last:
#   scripts/interop.sh --forecast [--recorded] [--record] [--markdown=FILE]
set -euo pipefail
export QWEN2_INTEROP_DIR=${QWEN2_INTEROP_DIR:-${TMPDIR:-/tmp}/qwen2-interop}
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [[ " $* " == *" --forecast "* && " $* " == *" --recorded "* ]]; then
  exec /usr/bin/python3 "$project/tests/interop/forecast.py"
fi

# python3-dev and g++: auto-gptq is built from source, and GPTQModel compiles its kernels at the first load.
packages=(python3 python3-venv python3-dev g++ git)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [[ ${#missing[@]} -gt 0 ]]; then
  if [[ $(id -u) -ne 0 ]]; then
    echo "interop.sh: missing packages: ${missing[*]}; install them or run as root" >&2
    exit 3
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

program=run.py
stacks=t4.40-o1.19,t4.40-o1.20,t4.57,t5
if [[ " $* " == *" --matrix "* ]]; then
  program=matrix.py
  stacks=peers,t5,t4.40-o1.20,llama,vllm
fi
for argument in "$@"; do
  case $argument in
    --stacks=*) stacks=${argument#--stacks=} ;;
  esac
done
IFS=, read -ra names <<<"$stacks"
bash "$project/tests/interop/stacks.sh" "${names[@]}"

if [[ ! -x $project/build/bin/qwen2-convert ]]; then
  ("$project/scripts/packages.sh" && "$project/scripts/build.sh" release) >&2
fi
if [[ " $* " == *" --forecast "* ]]; then
  results=$(mktemp)
  trap 'rm -f "$results"' EXIT
  /usr/bin/python3 "$project/tests/interop/run.py" --json="$results" >&2 || true
  options=()
  for argument in "$@"; do
    [[ $argument == --forecast ]] || options+=("$argument")
  done
  /usr/bin/python3 "$project/tests/interop/forecast.py" --results="$results" "${options[@]}"
  exit
fi
exec /usr/bin/python3 "$project/tests/interop/$program" "$@"
