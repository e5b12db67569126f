"""The worker half: copies between this rank's KV tensors and the arena, and says how it went.

It asks the daemon for nothing; it has the arena mapped and does what the scheduler half planned. Copies finish before
the engine may touch the blocks again: loads before the first layer reads them, stores before the step ends.

Never stored is KV computed from a load that failed. A failed load poisons everything computed in the same
step, and in steps that were scheduled before the scheduler heard of it. So from the first failure on, stores are
withheld until a step comes whose metadata shows that the scheduler knows.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed import get_tp_group
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
from vllm.logger import init_logger

from kvd_connectors.vllm.layout import Group
from kvd_connectors.vllm.metadata import KvdMetadata, KvdWorkerMetadata, LoadOp, LoadReport, StoreOp, StoreReport
from kvd_connectors.vllm.stats import KvdStats

logger = init_logger("vllm.kvd")

_IDLE_WAIT_SECONDS = 0.005


@dataclass
class _Outcome:
    """Which blocks of a load arrived; None when the arena could not be read at all."""

    arrived: list[bool] | None
    seconds: float


class KvdWorker:
    """Copies for one rank. `in_background` loads between steps and reports whole requests, else within a step."""

    def __init__(self, native: Any, groups: list[Group], in_background: bool, layerwise: bool):
        self._native = native
        self._groups = groups
        self._in_background = in_background
        self._layerwise = layerwise
        self._layers = {name: (g, i) for g, group in enumerate(groups) for i, name in enumerate(group.layer_names)}
        self._pool = ThreadPoolExecutor(1, "kvd-load") if in_background else None
        self._rank = 0
        self._pages: list[int] = []
        self._background: dict[str, list[tuple[LoadOp, Future[_Outcome]]]] = {}
        self._streaming: list[tuple[LoadOp, Any, float]] = []
        self._invalid_blocks: set[int] = set()
        self._failures = 0
        self._told_unmapped = 0
        self._report = KvdWorkerMetadata()
        self.stats = KvdStats()

    def register(self, kv_caches: dict[str, torch.Tensor], num_blocks: int) -> None:
        """Names this rank's KV memory to the native module, group by group."""
        self._rank = get_tp_group().rank_in_group
        for group in self._groups:
            layers = [_pages(kv_caches[name], num_blocks) for name in group.layer_names]
            stripe_bytes = sum(page_bytes for _, page_bytes, _, _ in layers)
            if stripe_bytes != group.stripe_bytes:
                raise ValueError(f"group {group.index} has {stripe_bytes} bytes a block, expected {group.stripe_bytes}")
            self._pages.append(self._native.register(group.layout, self._rank, layers))

    # ------------------------------------------------------------------ loads

    def start_loads(self, meta: KvdMetadata) -> None:
        """Starts the step's loads; without background or layerwise loading, also finishes them."""
        for op in meta.loads:
            if self._pool is not None:
                self._background.setdefault(op.request_id, []).append((op, self._pool.submit(self._load, op)))
            elif self._layerwise:
                self._stream(op)
            else:
                self._finish_load(op, self._load(op))

    def wait_for_layer(self, layer_name: str) -> None:
        """Returns once this layer's blocks are in place."""
        if not self._streaming:
            return
        group, layer = self._layers[layer_name]
        for op, job, _ in self._streaming:
            if op.group == group and job is not None:
                job.wait_layer(layer)

    def _load(self, op: LoadOp) -> _Outcome:
        begin = time.perf_counter()
        arrived = self._native.load(self._pages[op.group], op.incarnation, op.block_ids, op.slots, op.hashes)
        return _Outcome(arrived, time.perf_counter() - begin)

    def _stream(self, op: LoadOp) -> None:
        begin = time.perf_counter()
        job = self._native.start_load(self._pages[op.group], op.incarnation, op.block_ids, op.slots, op.hashes)
        self._streaming.append((op, job, begin))

    def _finish_streams(self) -> None:
        for op, job, begin in self._streaming:
            arrived = job.finish() if job is not None else None
            self._finish_load(op, _Outcome(arrived, time.perf_counter() - begin))
        self._streaming.clear()

    def _finish_load(self, op: LoadOp, outcome: _Outcome) -> bool:
        """Records how a load went; True when every block arrived."""
        arrived = outcome.arrived
        bad = {i for i, there in enumerate(arrived) if not there} if arrived is not None else set(range(len(op.slots)))
        corrupt = bad if arrived is not None else set()
        self._report.loads[op.load_id] = LoadReport(1, bad, set(corrupt))
        good = len(op.slots) - len(bad)
        bytes_loaded = good * self._groups[op.group].stripe_bytes
        self.stats.count(
            loaded_blocks=good, loaded_bytes=bytes_loaded, failed_blocks=len(bad), load_seconds=outcome.seconds
        )
        if bad:
            logger.warning("%d of %d blocks of request %s did not load", len(bad), len(op.slots), op.request_id)
        if bad and not self._in_background:
            self._failures += 1
            self._invalid_blocks.update(op.block_ids[index] for index in bad)
        return not bad

    # ------------------------------------------------------------------ stores

    def store(self, meta: KvdMetadata) -> None:
        """Finishes loads still streaming, then copies the step's full blocks into their slots."""
        self._finish_streams()
        withhold = meta.failures_seen.get(self._rank, 0) != self._failures
        for op in meta.stores:
            checksums = None if withhold else self._store(op)
            self._report.stores[op.store_id] = StoreReport({self._rank: checksums}, withheld=withhold)

    def _store(self, op: StoreOp) -> list[int] | None:
        begin = time.perf_counter()
        checksums = self._native.store(self._pages[op.group], op.incarnation, op.block_ids, op.slots)
        if checksums is None:
            self._tell_unmapped(op.incarnation)
        else:
            stored_bytes = len(checksums) * self._groups[op.group].stripe_bytes
            seconds = time.perf_counter() - begin
            self.stats.count(stored_blocks=len(checksums), stored_bytes=stored_bytes, store_seconds=seconds)
        return checksums

    def _tell_unmapped(self, incarnation: int) -> None:
        if incarnation != self._told_unmapped:
            self._told_unmapped = incarnation
            why = self._native.last_error or "it is connecting to another one"
            logger.warning("rank %d cannot copy to kvd of incarnation %x: %s", self._rank, incarnation, why)

    # ------------------------------------------------------------------ answers

    def transfer_results(self, meta: KvdMetadata) -> KVConnectorTransferResults:
        """Requests whose background loads ended, and which of them failed. Waits a little when nothing else runs."""
        if meta.idle and self._background:
            wait([loads[-1][1] for loads in self._background.values()], _IDLE_WAIT_SECONDS, "FIRST_COMPLETED")
        ended = [rid for rid, loads in self._background.items() if all(future.done() for _, future in loads)]
        results = KVConnectorTransferResults(finished_recving=set(ended))
        for request_id in ended:
            loads = self._background.pop(request_id)
            if not all([self._finish_load(op, future.result()) for op, future in loads]):
                results.failed_recving.add(request_id)
        return results

    def take_invalid_blocks(self) -> set[int]:
        """Blocks of this step whose load failed."""
        taken, self._invalid_blocks = self._invalid_blocks, set()
        return taken

    def take_report(self) -> KvdWorkerMetadata | None:
        """What the scheduler half must know; None for nothing."""
        if not self._report.loads and not self._report.stores:
            return None
        taken, self._report = self._report, KvdWorkerMetadata()
        taken.failures = {self._rank: self._failures}
        return taken

    def close(self) -> None:
        """Waits for background copies: they write into the engine's memory."""
        if self._pool is not None:
            self._pool.shutdown()


def _pages(cache: torch.Tensor, num_blocks: int) -> tuple[int, int, int, int]:
    """Base address, bytes of a page, distance between pages and number of pages of one layer.

    A kernel may cut the engine's blocks into smaller ones; then a page is that many kernel blocks in a row.
    """
    if cache.device.type != "cpu":
        raise ValueError(f"KV cache on {cache.device.type}: use kvd_connectors.vllm.tier.KvdTier there")
    per_block, rest = divmod(cache.shape[0], num_blocks)
    page = cache[0]
    page_bytes, stride_bytes = page.numel() * page.element_size(), cache.stride(0) * cache.element_size()
    if rest or not page.is_contiguous() or (per_block > 1 and stride_bytes != page_bytes):
        raise ValueError(f"KV cache of shape {tuple(cache.shape)}, strides {cache.stride()}: blocks are not contiguous")
    return cache.data_ptr(), page_bytes * per_block, stride_bytes * per_block, num_blocks
