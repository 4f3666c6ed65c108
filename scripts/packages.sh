#!/bin/sh
# Installs the Debian packages that building and testing need; does nothing where they are
# all there. Run as root on a bare Debian 12, or install the list by hand.
set -eu
packages="g++ cmake ninja-build libboost-program-options-dev libboost-filesystem-dev libxxhash-dev libzstd-dev
  libhwy-dev libgtest-dev nlohmann-json3-dev libfmt-dev libssl-dev openssl zstd python3 python3-numpy python3-jsonschema python3-xxhash $*"
missing=""
for package in $packages; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
