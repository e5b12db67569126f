"""What the scheduler half tells the worker halves in each step, and what they answer.

The scheduler alone talks to kvd. Workers learn which slots to copy from or to, together with the incarnation of the
daemon that granted them, and answer with checksums and failures. Both travel through vLLM, pickled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata


@dataclass
class LoadOp:
    """Copy these slots into these blocks of one group."""

    load_id: int
    request_id: str
    group: int
    incarnation: int
    block_ids: list[int]
    slots: list[int]
    hashes: bytes


@dataclass
class StoreOp:
    """Copy these blocks of one group into these slots."""

    store_id: int
    group: int
    incarnation: int
    block_ids: list[int]
    slots: list[int]


@dataclass
class KvdMetadata(KVConnectorMetadata):
    """One step's work."""

    loads: list[LoadOp] = field(default_factory=list)
    stores: list[StoreOp] = field(default_factory=list)
    idle: bool = False
    """True when the step computes nothing, so that a worker may wait a little for background copies."""
    failures_seen: dict[int, int] = field(default_factory=dict)
    """Failed loads of each rank that the scheduler knows of. See `KvdWorker.store`."""


@dataclass
class LoadReport:
    """How one load went, summed over the ranks that have answered. Indices are into the `LoadOp`."""

    ranks: int
    failed: set[int]
    corrupt: set[int]

    def add(self, other: LoadReport) -> None:
        """Takes in the answer of further ranks."""
        self.ranks += other.ranks
        self.failed |= other.failed
        self.corrupt |= other.corrupt


@dataclass
class StoreReport:
    """Checksums of one store by rank; None where a rank copied nothing."""

    checksums: dict[int, list[int] | None]
    withheld: bool = False
    """True when a rank held the store back because a load had failed before it."""

    def add(self, other: StoreReport) -> None:
        """Takes in the answer of further ranks."""
        self.checksums |= other.checksums
        self.withheld |= other.withheld


@dataclass
class KvdWorkerMetadata(KVConnectorWorkerMetadata):
    """What workers did in a step."""

    loads: dict[int, LoadReport] = field(default_factory=dict)
    stores: dict[int, StoreReport] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)
    """Failed loads of each rank since it started."""

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        """Merges the answer of another rank into this one."""
        assert isinstance(other, KvdWorkerMetadata)
        for load_id, load in other.loads.items():
            self.loads.setdefault(load_id, LoadReport(0, set(), set())).add(load)
        for store_id, store in other.stores.items():
            self.stores.setdefault(store_id, StoreReport({})).add(store)
        self.failures |= other.failures
        return self
