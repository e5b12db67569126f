#!/bin/bash
# Builds the Python wheel of the engine connectors and installs it beside vLLM, if anything it is made of has changed.
# The native module is also put into the source tree, where the tests import it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
cache=${KVD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvd}
target=${CARGO_TARGET_DIR:-$cache/target}
venv=$cache/vllm-venv
out=$target/wheels
package=$repository/engines-connectors/python/kvd_connectors
cd "$repository"

sources=(engines-connectors kvd/block kvd/proto kvd/shm Cargo.toml Cargo.lock deploy/setup/wheel.sh)
stamp() {
    git ls-files -z --cached --others --exclude-standard -- "${sources[@]}" |
        xargs -0 sha256sum 2>/dev/null | sha256sum | cut -d' ' -f1
}

now=$(stamp)
marker=$venv/.kvd-wheel
if [ -f "$package/_native.abi3.so" ] && [ "$(cat "$marker" 2>/dev/null)" = "$now" ]; then
    exit 0
fi

"$here/tools.sh"
echo "building the wheel"
mkdir -p "$out"
rm -f "$out"/kvd_connectors-*.whl
(cd engines-connectors && PATH=$cache/tools-venv/bin:$PATH CARGO_TARGET_DIR=$target \
    maturin build --release --quiet --interpreter "$venv/bin/python" --out "$out" </dev/null)
wheel=$(ls "$out"/kvd_connectors-*.whl)
UV_CACHE_DIR=$cache/uv "$cache/tools-venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
    --no-deps --reinstall-package kvd-connectors "$wheel" </dev/null
"$venv/bin/python" - "$wheel" "$package" <<'PYTHON'
import sys, zipfile
from pathlib import Path
wheel, package = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if name.startswith("kvd_connectors/_native") and name.endswith(".so"):
            fresh = Path(package) / "_native.abi3.so.new"
            fresh.write_bytes(archive.read(name))
            fresh.rename(Path(package) / "_native.abi3.so")
PYTHON
echo "$now" >"$marker"
echo "installed $(basename "$wheel")"
