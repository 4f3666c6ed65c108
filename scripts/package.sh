#!/bin/sh
# Builds dist/*.whl (scripts/wheel.sh) and dist/*.deb. The latter is checked with lintian, installed, used for the main job, its manual
# pages and completions are tried, and it is removed again. As root on Debian 12.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "package.sh: installing a package needs root" >&2; exit 3; }
scripts/packages.sh lowdown lintian man-db mandoc file dpkg-dev zsh fish python3-venv
cmake=/usr/bin/cmake
"$cmake" -S . -B build-package -G Ninja -DCMAKE_BUILD_TYPE=Release -DQ2C_TESTS=OFF -DQ2C_PACKAGE=ON -DCMAKE_INSTALL_PREFIX=/usr >/dev/null
"$cmake" --build build-package
rm -rf dist
scripts/wheel.sh
(cd build-package && /usr/bin/cpack -G DEB)
deb="$(echo dist/*.deb)"
lintian --fail-on error,warning "$deb"

dpkg -i "$deb" >/dev/null
place="$(mktemp -d)"
trap 'rm -rf "$place"; dpkg --purge qwen2-convert >/dev/null 2>&1 || true' EXIT
cd "$place"
sh "$OLDPWD/tests/package/main_job.sh" "$OLDPWD/fixtures/published-int4-g128-sharded/checkpoint"
for page in qwen2-convert.1 qwen2-audit.1 qwen2-zoo.1 qwen2-convert-report.5 qwen2-convert-manifest.5 qwen2-convert-undo.5 qwen2-zoo-plan.5; do
  file="/usr/share/man/man${page##*.}/$page.gz"
  [ -z "$(man --warnings -l "$file" 2>&1 >/dev/null)" ] || { echo "package.sh: complaints about $page" >&2; exit 1; }
done
/usr/bin/python3 "$OLDPWD/tests/cli/check_manual.py" /usr/bin/qwen2-convert /usr/bin/qwen2-audit /usr/bin/qwen2-zoo
dpkg --purge qwen2-convert >/dev/null
[ ! -e /usr/bin/qwen2-convert ] || { echo "package.sh: the package was not removed" >&2; exit 1; }
echo "$deb: built, checked, installed, used, removed"
