"""vLLM's KV cache events for blocks stored through the connector.

They carry kvd's own block names (16 bytes), so that a consumer can join them with the daemon's events. Removal is
the daemon's business and is announced by the daemon.
"""

from __future__ import annotations

from itertools import pairwise

from vllm.distributed.kv_events import MEDIUM_CPU, BlockStored
from vllm.v1.core.kv_cache_utils import ExternalBlockHash

from kvd_connectors.vllm.layout import Group
from kvd_connectors.vllm.request import RequestState


def stored_events(state: RequestState, group: Group, blocks: list[int]) -> list[BlockStored]:
    """One event for each run of consecutive `blocks`."""
    return [_run_stored(state, group, run) for run in _runs(blocks)]


def _runs(blocks: list[int]) -> list[range]:
    if not blocks:
        return []
    cuts = [before + 1 for before, after in pairwise(blocks) if after != before + 1]
    starts = [blocks[0], *(after for before, after in pairwise(blocks) if after != before + 1)]
    return [range(start, stop) for start, stop in zip(starts, [*cuts, blocks[-1] + 1])]


def _run_stored(state: RequestState, group: Group, run: range) -> BlockStored:
    first = max(run.start - 1, 0)
    names = state.names.of(group, range(first, run.stop))
    split = [names[at : at + 16] for at in range(0, len(names), 16)]
    hashes: list[ExternalBlockHash] = [*(split[1:] if run.start else split)]
    lora = state.request.lora_request
    tokens = state.request.all_token_ids[run.start * group.block_tokens : run.stop * group.block_tokens]
    return BlockStored(
        block_hashes=hashes,
        parent_block_hash=split[0] if run.start else None,
        token_ids=list(tokens),
        block_size=group.block_tokens,
        lora_id=lora.adapter_id if lora else None,
        medium=MEDIUM_CPU,
        lora_name=lora.lora_name if lora else None,
        group_idx=group.index,
        kv_cache_spec_kind=group.layout["attention"].partition(":")[0],
        kv_cache_spec_sliding_window=group.window,
        ownership="kvd",
    )
