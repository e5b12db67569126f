#!/bin/bash
# Makes $KVD_CACHE/tools-venv: uv, which installs Python packages, and maturin, which builds the wheel.
set -euo pipefail

cache=${KVD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvd}
venv=$cache/tools-venv
pins=(maturin==1.16.0 uv==0.13.8)

marker=$venv/.kvd-installed
[ "$(cat "$marker" 2>/dev/null)" != "${pins[*]}" ] || exit 0
mkdir -p "$cache"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${pins[@]}" </dev/null
echo "${pins[*]}" >"$marker"
