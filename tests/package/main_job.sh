#!/bin/sh
# The main job by the programs on PATH, in an empty folder: main_job.sh FIXTURE. Converts, signs and verifies; the reference
# program of OpenSSF model signing has the last word.
set -eu
fixture="$1"
qwen2-convert --version
openssl ecparam -name prime256v1 -genkey -noout -out key.pem
openssl pkey -in key.pem -pubout -out key.pub
qwen2-convert "$fixture" out --target=transformers-5.x --sign=key.pem --provenance --quiet
(cd out && sha256sum --quiet -c SHA256SUMS)
qwen2-audit out --fail-on=error >/dev/null
qwen2-audit out --verify-signature=key.pub
/usr/bin/python3 -m venv signing
signing/bin/pip install -q model_signing==1.1.1 pyopenssl
signing/bin/model_signing verify key out --signature out/model.sig --public_key key.pub
