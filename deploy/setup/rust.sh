#!/bin/bash
# Makes sure that cargo, rustfmt and clippy are there and new enough. Downloads nothing by itself: a toolchain comes
# from the distribution's packages where they have it, else the reader is told what to run.
set -euo pipefail

least=1.89

version() { cargo --version 2>/dev/null | cut -d' ' -f2; }
is_enough() { [ -n "$1" ] && printf '%s\n%s\n' "$least" "$1" | sort -V -C; }

if is_enough "$(version || true)"; then
    for part in fmt clippy; do
        cargo "$part" --version >/dev/null 2>&1 && continue
        echo "cargo $part is missing. With rustup: rustup component add rustfmt clippy" >&2
        exit 1
    done
    exit 0
fi

found=$(version || true)
echo "Rust $least or newer is needed, ${found:-none} is installed." >&2
if command -v rustup >/dev/null; then
    echo "Run: rustup toolchain install stable --profile default && rustup default stable" >&2
elif apt-cache show rustup >/dev/null 2>&1; then
    echo "Run as root: apt-get install rustup    then: rustup default stable" >&2
else
    echo "Install rustup as https://rustup.rs describes, then run this again." >&2
fi
exit 1
