"""What the connector remembers of one request: its block names, how far it is stored, and a load being arranged."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm.v1.request import Request

from kvd_connectors import _native
from kvd_connectors.vllm.layout import Group, content_digest
from kvd_connectors.vllm.matching import longest_usable


class Names:
    """Names of a request's blocks: one chain for each distinct block size. Grows with the tokens."""

    def __init__(self, request: Request, groups: Sequence[Group]):
        identity = dict(lora=_lora_identity(request), salt=request.cache_salt or "", extras=_media_identity(request))
        self._tokens = request.all_token_ids
        self.chains = {size: _native.Chain(size, **identity) for size in {group.block_tokens for group in groups}}

    def extend(self, num_tokens: int) -> None:
        """Names every whole block among the first `num_tokens` tokens."""
        for block_tokens, chain in self.chains.items():
            whole = num_tokens // block_tokens * block_tokens
            if whole > chain.num_tokens:
                chain.extend(self._tokens[chain.num_tokens : whole])

    def of(self, group: Group, blocks: range) -> bytes:
        """16 bytes for each of `blocks`, back to back."""
        return self.chains[group.block_tokens].hashes(blocks.start, blocks.stop) if len(blocks) else b""


def why_not_cacheable(request: Request) -> str | None:
    """What there is about a request that changes its KV without being part of the names; None for nothing."""
    if request.prompt_embeds is not None or request.prompt_token_ids is None:
        return "prompt embeddings"
    if request.pooling_params is not None:
        return "pooling"
    if request.resumable:
        return "streaming input"
    if request.lora_request is not None and request.lora_request.load_inplace:
        return "an adapter reloaded in place"
    if any(not feature.identifier for feature in request.mm_features):
        return "a multimodal item without an identifier"
    return None


def _lora_identity(request: Request) -> str:
    lora = request.lora_request
    if lora is None:
        return ""
    content = content_digest(lora.lora_path) if os.path.isdir(lora.lora_path) else None
    return f"{lora.lora_name}\0{content or lora.lora_path}"


def _media_identity(request: Request) -> list[tuple[int, int, bytes]]:
    positions = ((feature.mm_position, feature.identifier) for feature in request.mm_features)
    return [(at.offset, at.offset + at.length, name.encode()) for at, name in positions]


@dataclass
class GroupLoad:
    """Blocks of one group that a lease brings into the arena."""

    group: Group
    blocks: range
    hashes: bytes
    lease: Any
    """The native `Load`."""
    on_nvme: int

    def ready(self) -> list[bool]:
        """Which blocks can be copied now."""
        return [slot >= 0 for slot in self.lease.slots()]


@dataclass
class LoadPlan:
    """A hit under way: `[start, end)` comes from kvd once its blocks are in the arena.

    The leases keep the blocks there. Whoever drops a plan calls `release`, or lets it be collected.
    """

    start: int
    end: int
    parts: list[GroupLoad]
    incarnation: int
    deadline: float
    """When to stop waiting for NVMe."""
    expires: float
    """When the leases are too old to rely on. kvd ends them later by itself."""
    trimmed: bool = False

    def fits(self, start: int, incarnation: int) -> bool:
        """False when the local hit moved, kvd restarted or the leases grew old since the plan was made."""
        return self.start == start and self.incarnation == incarnation and time.monotonic() < self.expires

    def settled(self, wait_ms: int) -> bool:
        """True when no block is on its way from NVMe any more, or it is too late to wait for it."""
        return all(part.lease.wait(wait_ms) for part in self.parts) or time.monotonic() >= self.deadline

    def trim(self) -> None:
        """Shortens the hit to what arrived."""
        if not self.trimmed:
            have = [(part.blocks.start, part.ready()) for part in self.parts]
            self.end = longest_usable([part.group for part in self.parts], self.start, self.end, have)
            self.trimmed = True

    def release(self) -> None:
        """Gives all leases back."""
        for part in self.parts:
            part.lease.complete()

    def sources(self, num_tokens: int) -> tuple[int, int]:
        """How many of `num_tokens` come from host memory and from disk, judged by the group that loads most."""
        part = max(self.parts, key=lambda part: len(part.blocks))
        disk = min(num_tokens, part.on_nvme * part.group.block_tokens)
        return num_tokens - disk, disk


@dataclass
class RemotePrefill:
    """What a prefill instance promised about a request that decodes here."""

    num_tokens: int
    last_block: bytes
    deadline: float


@dataclass
class RequestState:
    """One live request."""

    request: Request
    names: Names
    cursors: list[int]
    """For each group, how many leading blocks need no more thought about storing."""
    plan: LoadPlan | None = None
    remote: RemotePrefill | None = None
    sources: tuple[int, int] = (0, 0)
    failed_loads: int = 0

    def drop_plan(self) -> None:
        """Gives up the load being arranged."""
        if self.plan is not None:
            self.plan.release()
            self.plan = None

    def rewind(self, position: int, block: int) -> None:
        """Thinks again about storing the blocks of a group from `block` on."""
        self.cursors[position] = min(self.cursors[position], block)
