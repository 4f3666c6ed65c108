#!/bin/sh
# Installs a wheel in a bare environment and uses it: try_wheel.sh PYTHON WHEEL, in a folder that has tests/ and fixtures/.
set -eu
fixture="$PWD/fixtures/published-int4-g128-sharded/checkpoint"
rm -rf trial
mkdir trial
"$1" -m venv trial/venv
trial/venv/bin/pip install -q --no-index "$2"
cd trial
export PATH="$PWD/venv/bin:$PATH"
sh ../tests/package/main_job.sh "$fixture"
# A system's settings of OpenSSL are for its own library: a module that they name must not be loaded into ours.
printf 'openssl_conf = a\n[a]\nproviders = b\n[b]\nnothing = c\n[c]\nmodule = /nowhere.so\nactivate = 1\n' >openssl.cnf
OPENSSL_CONF="$PWD/openssl.cnf" qwen2-convert "$fixture" configured --target=gguf --sign=key.pem --quiet
# A zoo, whose workers are processes of their own.
mkdir zoo
cp -rL "$fixture" zoo/model
qwen2-zoo plan zoo zoo-out --target=compressed-tensors >plan.jsonl
qwen2-zoo run plan.jsonl
(cd zoo-out/model && sha256sum --quiet -c SHA256SUMS)
# The package finds its programs without PATH.
PATH=/usr/bin:/bin venv/bin/python ../tests/python/test_package.py
venv/bin/pip uninstall -q -y qwen2-convert
[ ! -e venv/bin/qwen2-convert ] || { echo "try_wheel.sh: the wheel was not removed" >&2; exit 1; }
