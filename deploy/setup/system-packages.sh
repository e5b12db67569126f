#!/bin/bash
# Installs the Debian or Ubuntu packages that building and testing need, and only those that are missing.
set -euo pipefail

# A C++ compiler and libclang build RocksDB and its bindings; fio is the reference of the disk benches; the tests of
# faults and of block devices make and mount small filesystems (e2fsprogs, mount; fuse3 where they are not run by root).
packages=(ca-certificates clang curl e2fsprogs fio fuse3 g++ git libclang-dev make mount pkg-config procps python3 python3-venv)

if ! command -v dpkg-query >/dev/null; then
    echo "This is not Debian or Ubuntu. Install the equivalents of: ${packages[*]}" >&2
    exit 0
fi

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=()
for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

root=()
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "These packages are missing and there is no sudo. As root, run:" >&2
        echo "    apt-get install ${missing[*]}" >&2
        exit 1
    fi
    root=(sudo)
fi

echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}")
"${install[@]}" </dev/null || { "${root[@]}" apt-get update -q </dev/null && "${install[@]}" </dev/null; }
