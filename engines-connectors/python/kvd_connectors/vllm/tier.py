"""`KvdTier`: kvd as a secondary tier under vLLM's own `OffloadingConnector`.

vLLM moves KV between device and its pinned host region by itself; this tier moves chunks between that region and kvd.
It needs no tensor code, so it serves every device that vLLM's offloading serves.

```
--kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": {
    "spec_name": "TieringOffloadingSpec", "cpu_bytes_to_use": 10737418240,
    "secondary_tiers": [{"type": "KvdTier", "module_path": "kvd_connectors.vllm.tier",
                         "kvd_socket": "/run/kvd/kvd.sock"}]}}'
--prefix-caching-hash-algo sha256_cbor
```

Through this door kvd sees only vLLM's block hashes, not tokens. They must therefore mean the same in every process:
use `sha256` or `sha256_cbor`; the xxhash variants are seeded per process. Blocks stored through this door and through
`KvdConnector` have different layouts and are not shared. `hf_overrides` are not visible here: an engine that uses them
must set `weights_id`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, ClassVar

import numpy as np
from vllm import __version__ as vllm_version
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingSpec,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
)
from vllm.v1.kv_offload.config import OffloadingConfig
from vllm.v1.kv_offload.tiering.backpressure import BackpressureDetector
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

from kvd_connectors import _native
from kvd_connectors.vllm.config import KvdConfig
from kvd_connectors.vllm.layout import cpu_arrangement, weights_of
from kvd_connectors.vllm.session import CPU, Session

logger = init_logger("vllm.kvd")

_LAYOUT = 0
_RANK = 0


class KvdTier(SecondaryTierManager):
    """Keeps chunks in kvd. Scheduler-side calls answer at once; copies run on one thread, in the order submitted."""

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: OffloadingSpec,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: BackpressureDetector | None = None,
        **options: Any,
    ):
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self.locality = Locality.LOCAL
        self._config = KvdConfig.parse(options)
        layout = _chunk_layout(offloading_spec.config, self.block_size_bytes, self._config.weights_id)
        software, engine = f"vllm {vllm_version}", f"{offloading_spec.config.engine_id}/tier"
        at = dict(socket=self._config.kvd_socket, engine=engine, software=software)
        patience = self._config.connect_wait_ms
        self._client = _native.Client(
            **at, layouts=[layout], connect_wait_ms=patience, timeout_ms=self._config.timeout_ms
        )
        self._session = Session(self._client)
        self._copier = _native.Worker(**at, connect_wait_ms=patience, threads=self._config.copy_threads)
        self._region = np.asarray(primary_kv_view)
        chunks = self._region.shape[0]
        whole = (self._region.ctypes.data, self.block_size_bytes, self.block_size_bytes, chunks)
        self._pages = self._copier.register(layout, _RANK, [whole])
        self._thread = ThreadPoolExecutor(1, "kvd-tier")
        self._jobs: dict[int, Future[JobResult]] = {}

    # ------------------------------------------------------------------ lookups

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """Whether kvd has the chunk. One that is being stored counts as a miss: whoever stores it may fail."""
        if not self._session.usable():
            return LookupResult.MISS
        found = self._session.lookup(_LAYOUT, _names([key]), True)
        return LookupResult.HIT if found and found[0] >= CPU else LookupResult.MISS

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        """Keeps chunks that vLLM used from its own memory."""
        if keys and self._session.usable():
            self._client.touch(_LAYOUT, _names(keys))

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """Chunk by chunk, as they are computed."""
        return RequestOffloadingContext()

    # ------------------------------------------------------------------ jobs

    def submit_store(self, job_metadata: TransferJob) -> None:
        """Copies chunks into kvd. Chunks that kvd has, or has no room for, are skipped."""
        self._submit(job_metadata, self._store)

    def submit_load(self, job_metadata: TransferJob) -> None:
        """Copies chunks out of kvd, waiting for NVMe up to the staging deadline."""
        self._submit(job_metadata, self._load)

    def _submit(self, job: TransferJob, copy: Callable[[TransferJob], JobResult]) -> None:
        self._jobs[job.job_id] = self._thread.submit(copy, job)

    def _store(self, job: TransferJob) -> JobResult:
        begin = time.perf_counter()
        lease = self._client.prepare_store_named(_LAYOUT, _names(job.keys), None)
        if lease is None:
            return JobResult(job.job_id, success=False)
        slots = lease.slots()
        granted = [index for index, slot in enumerate(slots) if slot >= 0]
        chunks = [int(job.chunk_ids[index]) for index in granted]
        checksums = self._copier.store(self._pages, lease.incarnation, chunks, [slots[index] for index in granted])
        lease.complete([(index, [checksum]) for index, checksum in zip(granted, checksums or [])])
        copied = len(checksums or []) * self.block_size_bytes
        return JobResult(job.job_id, checksums is not None, None, time.perf_counter() - begin, copied)

    def _load(self, job: TransferJob) -> JobResult:
        begin = time.perf_counter()
        names = _names(job.keys)
        lease = self._client.prepare_load(_LAYOUT, names, self._config.staging_deadline_ms)
        if lease is None:
            return JobResult(job.job_id, success=False)
        lease.wait(self._config.staging_deadline_ms)
        slots = lease.slots()
        ready = [index for index, slot in enumerate(slots) if slot >= 0]
        chunks = [int(job.chunk_ids[index]) for index in ready]
        hashes = b"".join(names[index * 16 : index * 16 + 16] for index in ready)
        arrived = self._copier.load(self._pages, lease.incarnation, chunks, [slots[index] for index in ready], hashes)
        good = {index for index, there in zip(ready, arrived or []) if there}
        lease.complete([index for index in ready if index not in good] if arrived is not None else [])
        keys = [key for index, key in enumerate(job.keys) if index in good]
        seconds = time.perf_counter() - begin
        return JobResult(job.job_id, len(keys) == len(slots), keys, seconds, len(keys) * self.block_size_bytes)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """Jobs that ended since the last call."""
        ended = [job_id for job_id, future in self._jobs.items() if future.done()]
        return [self._result(job_id, self._jobs.pop(job_id)) for job_id in ended]

    def _result(self, job_id: int, future: Future[JobResult]) -> JobResult:
        error = future.exception()
        if error is None:
            return future.result()
        logger.error("copying chunks failed: %s", error)
        return JobResult(job_id, success=False)

    def has_pending_work(self) -> bool:
        """True while copies are under way."""
        return bool(self._jobs)

    def drain_jobs(self) -> None:
        """Returns when no copy touches vLLM's region any more. Results stay for `get_finished_jobs`."""
        wait(list(self._jobs.values()))

    def shutdown(self) -> None:
        """Finishes what is under way and ends the session."""
        self._thread.shutdown()
        self._session.close()


def _names(keys: Collection[OffloadKey]) -> bytes:
    """16 bytes for each of vLLM's keys (block hash and group)."""
    return b"".join(hashlib.blake2b(key, digest_size=16).digest() for key in keys)


def _chunk_layout(config: OffloadingConfig, chunk_bytes: int, weights_id: str | None) -> dict[str, Any]:
    """One layout for all groups: a chunk has the same size in each, and its key says which group it belongs to."""
    exact = dict(
        groups=[(group.group_id, group.tokens_per_block, group.layer_names) for group in config.groups],
        cache=repr(config.cache),
        worlds=[config.parallel.world_size, config.parallel.tp_size, config.parallel.pp_size],
        layouts=[config.kv_cache_layout, config.replicated_layout, config.canonical_layout],
        configuration=_configuration_of(config.model.name),
    )
    digest = hashlib.sha256(json.dumps(exact, sort_keys=True, default=str).encode()).hexdigest()
    platform = cpu_arrangement() if current_platform.is_cpu() else current_platform.device_name
    return dict(
        model=os.path.basename(os.path.normpath(config.model.name))[-200:],
        weights=(weights_id or weights_of(config.model.name, None))[:100],
        kv_dtype=config.model.dtype,
        block_tokens=config.groups[0].tokens_per_block * config.cache.blocks_per_chunk,
        group=0,
        attention="offload_chunk",
        geometry=f"vllm {vllm_version} tier {platform} {config.kv_cache_layout} sha256={digest}",
        ranks=1,
        stripe_bytes=chunk_bytes,
    )


def _configuration_of(model: str) -> str:
    path = os.path.join(model, "config.json")
    if not os.path.isfile(path):
        return model
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
