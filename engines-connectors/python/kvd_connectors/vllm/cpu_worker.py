"""TEST AID. Lets vLLM's `OffloadingConnector` run on the CPU platform, where its own copy worker refuses to.

`CpuTieringSpec` is `TieringOffloadingSpec` with a worker that copies with plain assignments, one chunk per block. It
exists so that `KvdTier` can be tested end to end without a GPU; nothing else should use it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from vllm.v1.kv_offload.base import (
    CanonicalKVCaches,
    GPULoadStoreSpec,
    LoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class CpuCopyWorker(OffloadingWorker):
    """Copies at once, in the caller's thread. A transfer is finished before `submit_*` returns."""

    def __init__(self, kv_caches: CanonicalKVCaches, region: SharedOffloadRegion):
        self._engine = [cache.tensor.view(torch.int8).flatten(1) for cache in kv_caches.tensors]
        self._host = [region.create_next_worker_view(cache.page_size_bytes) for cache in kv_caches.tensors]
        self._groups = [[ref.tensor_idx for ref in refs] for refs in kv_caches.group_data_refs]
        self._region = region
        self._finished: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec) -> bool:
        return self._copy(job_id, src_spec, dst_spec, to_host=True)

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        return self._copy(job_id, dst_spec, src_spec, to_host=False)

    def _copy(self, job_id: int, engine: GPULoadStoreSpec, host: LoadStoreSpec, to_host: bool) -> bool:
        begin, copied = time.perf_counter(), 0
        for tensor, block, chunk in self._moves(engine, host):
            here, there = self._engine[tensor][block], self._host[tensor][chunk]
            (there.copy_(here) if to_host else here.copy_(there))
            copied += here.numel()
        self._finished.append(TransferResult(job_id, True, copied, time.perf_counter() - begin))
        return True

    def _moves(self, engine: GPULoadStoreSpec, host: LoadStoreSpec) -> Iterator[tuple[int, int, int]]:
        assert isinstance(host, CPULoadStoreSpec)
        pairs = zip(engine.block_ids.tolist(), host.chunk_ids.tolist(), strict=True)
        for group, size in enumerate(engine.group_sizes):
            for block, chunk in (next(pairs) for _ in range(size)):
                yield from ((tensor, block, chunk) for tensor in self._groups[group])

    def get_finished(self) -> list[TransferResult]:
        taken, self._finished = self._finished, []
        return taken

    def wait(self, job_ids: set[int]) -> None:
        """Nothing is ever under way."""

    def shutdown(self) -> None:
        self._region.cleanup()


class CpuTieringSpec(TieringOffloadingSpec):
    """See the module: for tests."""

    def get_worker(self, kv_caches: CanonicalKVCaches) -> Any:
        """As the class it replaces, without asking for a GPU."""
        if self._worker is None:
            self._worker = self.create_worker(kv_caches)
        return self._worker

    def create_worker(self, kv_caches: CanonicalKVCaches) -> Any:
        """A `CpuCopyWorker` on this rank's part of the region."""
        if self.blocks_per_chunk != 1:
            raise ValueError("the test worker copies one block per chunk")
        region = SharedOffloadRegion(
            engine_id=self._engine_id,
            num_chunks=self.num_chunks,
            rank=self.config.parallel.rank,
            kv_bytes_per_chunk=self.kv_bytes_per_chunk,
            cpu_page_size=self.cpu_page_size_per_worker,
        )
        return CpuCopyWorker(kv_caches, region)
