#!/bin/sh
# Builds dist/*.deb, checks it with lintian, installs it, runs the main job from it, tries manual pages and completions, and removes
# it again. As root on Debian 12.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "package.sh: installing a package needs root" >&2; exit 3; }
scripts/packages.sh lowdown lintian man-db mandoc file dpkg-dev zsh fish python3-venv
cmake=/usr/bin/cmake
"$cmake" -S . -B build-package -G Ninja -DCMAKE_BUILD_TYPE=Release -DQ2C_TESTS=OFF -DQ2C_PACKAGE=ON -DCMAKE_INSTALL_PREFIX=/usr >/dev/null
"$cmake" --build build-package
rm -rf dist
(cd build-package && /usr/bin/cpack -G DEB)
deb="$(echo dist/*.deb)"
lintian --fail-on error,warning "$deb"

dpkg -i "$deb" >/dev/null
place="$(mktemp -d)"
trap 'rm -rf "$place"; dpkg --purge qwen2-convert >/dev/null 2>&1 || true' EXIT
cd "$place"
qwen2-convert --version
fixture="$OLDPWD/fixtures/published-int4-g128-sharded/checkpoint"
openssl ecparam -name prime256v1 -genkey -noout -out key.pem
openssl pkey -in key.pem -pubout -out key.pub
qwen2-convert "$fixture" out --target=transformers-5.x --sign=key.pem --provenance --quiet
(cd out && sha256sum --quiet -c SHA256SUMS)
qwen2-audit out --fail-on=error >/dev/null
qwen2-audit out --verify-signature=key.pub
# The reference program of OpenSSF model signing has the last word.
python3 -m venv venv
venv/bin/pip install -q model_signing==1.1.1 pyopenssl
venv/bin/model_signing verify key out --signature out/model.sig --public_key key.pub
for page in qwen2-convert.1 qwen2-audit.1 qwen2-zoo.1 qwen2-convert-report.5 qwen2-convert-manifest.5 qwen2-convert-undo.5 qwen2-zoo-plan.5; do
  file="/usr/share/man/man${page##*.}/$page.gz"
  [ -z "$(man --warnings -l "$file" 2>&1 >/dev/null)" ] || { echo "package.sh: complaints about $page" >&2; exit 1; }
done
/usr/bin/python3 "$OLDPWD/tests/cli/check_manual.py" /usr/bin/qwen2-convert /usr/bin/qwen2-audit /usr/bin/qwen2-zoo
dpkg --purge qwen2-convert >/dev/null
[ ! -e /usr/bin/qwen2-convert ] || { echo "package.sh: the package was not removed" >&2; exit 1; }
echo "$deb: built, checked, installed, used, removed"
