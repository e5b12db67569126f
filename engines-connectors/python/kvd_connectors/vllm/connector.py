"""`KvdConnector`: vLLM's connector interface on one side, the scheduler and worker halves on the other.

Every method forwards; decisions are in `scheduler.py`, copies in `worker.py`. The class exists once per role: vLLM
makes one instance in the scheduler's process and one in every worker's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats
from vllm.logger import init_logger
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.metrics.cache_hit_source import CacheHitSource
from vllm.v1.outputs import KVConnectorOutput

from kvd_connectors import _native
from kvd_connectors.vllm.config import KvdConfig, Role
from kvd_connectors.vllm.layout import Group, Unsupported, describe_groups
from kvd_connectors.vllm.metadata import KvdMetadata, KvdWorkerMetadata
from kvd_connectors.vllm.scheduler import KvdScheduler
from kvd_connectors.vllm.session import Session
from kvd_connectors.vllm.stats import KvdPromMetrics, KvdStats
from kvd_connectors.vllm.worker import KvdWorker

if TYPE_CHECKING:
    from vllm.forward_context import ForwardContext
    from vllm.v1.attention.backend import AttentionMetadata
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.request import Request

logger = init_logger("vllm.kvd")


class KvdConnector(KVConnectorBase_V1, SupportsHMA):
    """Keeps vLLM's KV blocks in kvd. A cache: whatever goes wrong, the engine computes."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig):
        super().__init__(vllm_config, role, kv_cache_config)
        config = KvdConfig.parse(self._kv_transfer_config.kv_connector_extra_config)
        groups = self._describe(config)
        # A failed block of a windowed or hybrid model cannot be recomputed alone: what came before it is gone.
        background = len(groups) > 1 or any(group.window is not None for group in groups)
        self._scheduler: KvdScheduler | None = None
        self._worker: KvdWorker | None = None
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = self._make_scheduler(config, groups, background)
        else:
            self._worker = self._make_worker(config, groups, background)

    def _describe(self, config: KvdConfig) -> list[Group]:
        try:
            return describe_groups(self._vllm_config, self._kv_cache_config, config.weights_id)
        except Unsupported as reason:
            logger.error("kvd is not used: %s", reason)
            return []

    def _make_scheduler(self, config: KvdConfig, groups: list[Group], background: bool) -> KvdScheduler:
        transfer = self._kv_transfer_config
        if transfer.kv_load_failure_policy == "fail":
            logger.warning(
                "kv_load_failure_policy is 'fail': a block that cannot be loaded ends its request with an error, "
                "although it could be recomputed. Set kv_load_failure_policy to 'recompute'."
            )
        client = None
        if groups:
            client = _native.Client(
                socket=config.kvd_socket,
                engine=transfer.engine_id,
                software=_software(),
                layouts=[group.layout for group in groups],
                connect_wait_ms=config.connect_wait_ms,
                timeout_ms=config.timeout_ms,
            )
        role = Role(
            ranks=self._vllm_config.parallel_config.tensor_parallel_size,
            background=background,
            stores=transfer.is_kv_producer,
        )
        return KvdScheduler(config, groups, Session(client), role)

    def _make_worker(self, config: KvdConfig, groups: list[Group], background: bool) -> KvdWorker:
        native = None
        if groups:
            native = _native.Worker(
                socket=config.kvd_socket,
                engine=self._kv_transfer_config.engine_id,
                software=_software(),
                connect_wait_ms=config.connect_wait_ms,
                threads=config.copy_threads,
            )
        return KvdWorker(native, groups, background, config.layerwise_load)

    @property
    def requires_kv_delivery(self) -> bool:
        """False: a block that was not stored is a miss later, never an error."""
        return False

    @property
    def scheduler(self) -> KvdScheduler:
        """The scheduler half; only in the scheduler's process."""
        assert self._scheduler is not None
        return self._scheduler

    @property
    def worker(self) -> KvdWorker:
        """The worker half; only in a worker's process."""
        assert self._worker is not None
        return self._worker

    # ------------------------------------------------------------------ scheduler half

    def on_new_request(self, request: Request) -> None:
        self.scheduler.new_request(request)

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self.scheduler.match(request, num_computed_tokens)

    def get_external_cache_hit_sources(self, request: Request, num_external_tokens: int) -> dict[CacheHitSource, int]:
        return self.scheduler.hit_sources(request, num_external_tokens)

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        self.scheduler.allocated(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        return self.scheduler.plan_step(scheduler_output)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        answer = connector_output.kv_connector_worker_meta
        if isinstance(answer, KvdWorkerMetadata):
            self.scheduler.absorb(answer)

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return False, self.scheduler.finished(request)

    def reset_cache(self) -> bool | None:
        self.scheduler.reset()
        return True

    # ------------------------------------------------------------------ worker half

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self.worker.register(kv_caches, self._kv_cache_config.num_blocks)

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        self.worker.start_loads(self._step())

    def wait_for_layer_load(self, layer_name: str) -> None:
        self.worker.wait_for_layer(layer_name)

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: AttentionMetadata, **kwargs: Any
    ) -> None:
        """Nothing: whole blocks of all layers are stored at once when the step ends."""

    def wait_for_save(self) -> None:
        self.worker.store(self._step())

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        return self.worker.transfer_results(self._step())

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self.worker.take_invalid_blocks()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        return self.worker.take_report()

    def _step(self) -> KvdMetadata:
        meta = self._get_connector_metadata()
        assert isinstance(meta, KvdMetadata)
        return meta

    # ------------------------------------------------------------------ both

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        half = self._scheduler or self._worker
        return half.stats.take() if half is not None else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats | None:
        return KvdStats(data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: VllmConfig,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> KVConnectorPromMetrics | None:
        return KvdPromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        return KvdConfig.parse(extra_config).layerwise_load

    def shutdown(self) -> None:
        half = self._scheduler or self._worker
        if half is not None:
            half.close()


def _software() -> str:
    from vllm import __version__

    return f"vllm {__version__}"
