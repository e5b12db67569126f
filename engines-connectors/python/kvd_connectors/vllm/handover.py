"""Split prefill and decode: what a prefill instance tells the decode instance through `kv_transfer_params`.

Blocks are found by name, so the decode instance needs none of this to be right. It is told which block comes last, so
that it can wait for it instead of computing what is about to arrive.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

from vllm.logger import init_logger
from vllm.v1.request import Request

from kvd_connectors import _native
from kvd_connectors.vllm.layout import Group
from kvd_connectors.vllm.request import RemotePrefill, RequestState

logger = init_logger("vllm.kvd")


def reference_group(groups: Sequence[Group]) -> Group:
    """The group whose last block tells that a prefill is stored: one that keeps every block, if there is one."""
    return min(groups, key=lambda group: group.window is not None)


def wants_decode_elsewhere(request: Request) -> bool:
    """True for the prefill half of a split request."""
    return bool((request.kv_transfer_params or {}).get("do_remote_decode"))


def hand_over(state: RequestState, groups: Sequence[Group], kvd_socket: str) -> dict[str, Any]:
    """What the decode instance is told when a prefill ends."""
    group = reference_group(groups)
    blocks = min(state.request.num_computed_tokens // group.block_tokens, state.cursors[group.index])
    last = state.names.of(group, range(blocks - 1, blocks)) if blocks else b""
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "kvd": {
            "node": socket.gethostname(),
            "socket": kvd_socket,
            "num_tokens": blocks * group.block_tokens,
            "last_block_hash": last.hex(),
            "layouts": [_native.layout_id(group.layout) for group in groups],
        },
    }


def promise_of(request: Request, wait_ms: int) -> RemotePrefill | None:
    """What the prefill instance of this node promised about `request`; None when there is nothing to wait for."""
    params = request.kv_transfer_params or {}
    hint = params.get("kvd") if params.get("do_remote_prefill") else None
    if not isinstance(hint, dict) or hint.get("node") != socket.gethostname():
        return None
    try:
        num_tokens, last_block = int(hint["num_tokens"]), bytes.fromhex(hint["last_block_hash"])
    except (KeyError, TypeError, ValueError):
        logger.warning_once("kv_transfer_params of another version of the connector are ignored")
        return None
    return RemotePrefill(num_tokens, last_block, deadline=time.monotonic() + wait_ms / 1000)
