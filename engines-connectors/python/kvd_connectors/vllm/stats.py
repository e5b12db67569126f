"""Counters of the connector, summed over the scheduler half and all workers, for vLLM's log line and Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

COUNTERS = {
    "lookups": "Questions to kvd about the blocks of a request",
    "found_blocks": "Blocks that kvd had when a request asked for them",
    "loaded_blocks": "Blocks copied from kvd into the engine, counted on each rank",
    "loaded_bytes": "Bytes copied from kvd into the engine",
    "load_seconds": "Time spent copying from kvd",
    "failed_blocks": "Blocks whose load failed and that were recomputed",
    "late_loads": "Hits that were shortened because NVMe was too slow",
    "stored_blocks": "Blocks copied from the engine into kvd, counted on each rank",
    "stored_bytes": "Bytes copied from the engine into kvd",
    "store_seconds": "Time spent copying into kvd",
    "present_blocks": "Blocks not copied because kvd had them",
    "busy_blocks": "Blocks not stored because kvd had no room or another engine was storing them",
}


@dataclass
class KvdStats(KVConnectorStats):
    """One number for each of `COUNTERS`, since the last report."""

    def __post_init__(self) -> None:
        if not self.data:
            self.reset()

    def reset(self) -> None:
        self.data = dict.fromkeys(COUNTERS, 0)

    def count(self, **amounts: float) -> None:
        """Adds to counters by name."""
        for name, amount in amounts.items():
            self.data[name] += amount

    def take(self) -> KvdStats | None:
        """What was counted since the last call; None for nothing."""
        if self.is_empty():
            return None
        taken = KvdStats(self.data)
        self.reset()
        return taken

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        self.count(**other.data)
        return self

    def reduce(self) -> dict[str, int | float]:
        return {name: round(value, 6) for name, value in self.data.items() if value}

    def is_empty(self) -> bool:
        return not any(self.data.values())


class KvdPromMetrics(KVConnectorPromMetrics):
    """The counters as `vllm:kvd_<name>_total`, by engine."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: Any):
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        make = metric_types[Counter]
        self._counters = {
            name: make(name=f"vllm:kvd_{name}", documentation=f"{text}.", labelnames=labelnames)
            for name, text in COUNTERS.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, value in transfer_stats_data.items():
            self._counters[name].labels(*self.per_engine_labelvalues[engine_idx]).inc(value)
