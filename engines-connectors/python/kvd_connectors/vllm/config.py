"""Settings of the connector: the keys of `kv_connector_extra_config`.

Unknown keys are refused with the nearest known key, so that a typing error never silently means "default".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

_TYPES = {"str | None": (str, type(None)), "int": (int,), "bool": (bool,)}


@dataclass(frozen=True)
class KvdConfig:
    """What an operator may set. Times are in milliseconds."""

    kvd_socket: str | None = None
    """Unix socket of the daemon; the default is where the daemon puts it."""
    weights_id: str | None = None
    """Names the weights when they cannot be read from disk. Equal names promise equal weights."""
    store_budget_mb_per_step: int = 256
    """Most MiB copied to kvd in one engine step; the rest follows in later steps of the same request."""
    store_decode: bool = True
    """Store blocks that generation fills, not only prompt blocks."""
    staging_deadline_ms: int = 2000
    """How long a request may wait for blocks to come from NVMe. Late blocks are recomputed."""
    remote_wait_ms: int = 2000
    """How long a decode request may wait for the last block its prefill instance promised."""
    connect_wait_ms: int = 500
    """How long start-up waits for the daemon. The engine starts either way."""
    timeout_ms: int = 200
    """Longest wait for one answer of the daemon."""
    copy_threads: int = 0
    """Threads that copy in each worker; 0 lets the native module choose."""
    layerwise_load: bool = False
    """Start a forward pass while later layers are still being copied. Pays only with spare cores."""

    @classmethod
    def parse(cls, extra: Mapping[str, Any]) -> KvdConfig:
        """Reads `extra`. Raises `ValueError` naming the key that is unknown, or whose value has the wrong type."""
        known = {field.name: _TYPES[str(field.type)] for field in fields(cls)}
        for key, value in extra.items():
            if key not in known:
                raise ValueError(_unknown_key(key, list(known)))
            if not isinstance(value, known[key]) or (isinstance(value, bool) and bool not in known[key]):
                raise ValueError(f"kv_connector_extra_config[{key!r}] is {value!r}, a {type(value).__name__}")
            if isinstance(value, int) and value < 0:
                raise ValueError(f"kv_connector_extra_config[{key!r}] is {value}, below zero")
        return cls(**extra)


@dataclass
class Role:
    """What this engine does with kvd."""

    ranks: int
    """Ranks that each answer for a load or store."""
    background: bool
    """Load between steps and report failures by request. Needed where a failed block cannot be recomputed alone."""
    stores: bool
    """False for an instance that only consumes what others computed."""


def _unknown_key(key: str, known: list[str]) -> str:
    near = get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"kv_connector_extra_config has an unknown key {key!r}: {hint}"
