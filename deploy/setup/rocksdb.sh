#!/bin/bash
# Compiles RocksDB once, into $KVD_CACHE/rocksdb-VERSION, and prints the folder.
#
# RocksDB is most of a first build (341 C++ files). Cargo would compile it again whenever another choice of packages
# changes the features of its build dependencies; linked from here it is compiled once per version.
set -euo pipefail

cache=${KVD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvd}
cd "$(dirname "$0")/../.."
version=$(grep -A1 '^name = "librocksdb-sys"' Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')
folder=$cache/rocksdb-${version:?not in Cargo.lock}
[ "${1:-}" != --where ] || { echo "$folder"; exit 0; }
[ ! -f "$folder/librocksdb.a" ] || exit 0

echo "compiling RocksDB, once (about 15 minutes on two cores)"
build=$cache/rocksdb-build
env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_TARGET_DIR="$build" \
    cargo build --release --quiet --package librocksdb-sys </dev/null
mkdir -p "$folder"
cp "$(ls -t "$build"/release/build/librocksdb-sys-*/out/librocksdb.a | head -n 1)" "$folder/librocksdb.a.new"
mv "$folder/librocksdb.a.new" "$folder/librocksdb.a"
rm -rf "$build"
