"""Stores: which blocks this step fills, which of them kvd lacks, and sealing them once every rank has copied its part.

Chunked prefill, generation and preemption need no cases of their own: each request has a cursor behind which nothing
needs storing any more, and every step moves it as far as the blocks that are full by then, or the budget, allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request

from kvd_connectors.vllm.config import KvdConfig, Role
from kvd_connectors.vllm.handover import wants_decode_elsewhere
from kvd_connectors.vllm.layout import Group
from kvd_connectors.vllm.metadata import StoreOp, StoreReport
from kvd_connectors.vllm.request import RequestState
from kvd_connectors.vllm.session import Session
from kvd_connectors.vllm.stats import KvdStats


@dataclass
class _StoreUnderWay:
    group: int
    lease: Any
    blocks: list[int]
    """Position in the sequence of each block of the op."""
    indices: list[int]
    """Index in the lease of each block of the op."""
    names: list[bytes]
    state: RequestState
    answer: StoreReport


class Stores:
    """All stores of one engine. `requests` is the scheduler's table of live requests."""

    def __init__(
        self,
        config: KvdConfig,
        groups: list[Group],
        session: Session,
        role: Role,
        requests: Mapping[str, RequestState],
        stats: KvdStats,
    ):
        self._config = config
        self._groups = groups
        self._session = session
        self._role = role
        self._requests = requests
        self._stats = stats
        self._ids = count(1)
        self._under_way: dict[int, _StoreUnderWay] = {}

    def __len__(self) -> int:
        """Stores that not every rank has answered yet."""
        return len(self._under_way)

    def plan(self, output: SchedulerOutput) -> list[StoreOp]:
        """The copies that go with this step, within its budget."""
        ops: list[StoreOp] = []
        budget_bytes = self._config.store_budget_mb_per_step << 20
        for request_id, num_scheduled in output.num_scheduled_tokens.items():
            state = self._requests.get(request_id)
            if state is None:
                continue
            computed = self._storable_tokens(state.request, num_scheduled)
            for position, group in enumerate(self._groups):
                if computed // group.block_tokens <= state.cursors[position] or not self._session.usable():
                    continue
                block_ids = _block_ids(output, request_id)[group.index]
                # A prefill instance answers when the step ends, and promises blocks that must be there by then.
                promised = wants_decode_elsewhere(state.request)
                room = computed if promised else budget_bytes // group.block_bytes
                op = self._plan_store(state, position, computed // group.block_tokens, block_ids, room)
                if op is not None:
                    budget_bytes -= len(op.slots) * group.block_bytes
                    ops.append(op)
        return ops

    def _storable_tokens(self, request: Request, num_scheduled: int) -> int:
        """Tokens whose KV is final after this step. Draft tokens are not: they may be rejected."""
        computed = min(request.num_computed_tokens + num_scheduled, request.num_tokens)
        return computed if self._config.store_decode else min(computed, request.num_prompt_tokens)

    def _plan_store(
        self, state: RequestState, position: int, stop: int, block_ids: list[int], room: int
    ) -> StoreOp | None:
        """Leases slots for at most `room` full blocks that kvd lacks, and moves the cursor past all it dealt with."""
        group = self._groups[position]
        state.names.extend(stop * group.block_tokens)
        wanted, cursor = self._next_unstored(state, position, stop, block_ids, room)
        if not wanted:
            state.cursors[position] = cursor
            return None
        lease = self._session.prepare_store(group.index, state.names.chains[group.block_tokens], list(wanted))
        if lease is None:
            return None
        state.cursors[position] = cursor
        slots = lease.slots()
        self._count_refused(group, list(wanted.values()), slots)
        granted = [index for index, slot in enumerate(slots) if slot >= 0]
        if not granted:
            return None
        blocks = list(wanted)
        op = StoreOp(
            store_id=next(self._ids),
            group=position,
            incarnation=lease.incarnation,
            block_ids=[block_ids[blocks[index]] for index in granted],
            slots=[slots[index] for index in granted],
        )
        self._under_way[op.store_id] = _StoreUnderWay(
            group=position,
            lease=lease,
            blocks=[blocks[index] for index in granted],
            indices=granted,
            names=[wanted[blocks[index]] for index in granted],
            state=state,
            answer=StoreReport({}),
        )
        return op

    def _next_unstored(
        self, state: RequestState, position: int, stop: int, block_ids: list[int], room: int
    ) -> tuple[dict[int, bytes], int]:
        """Up to `room` blocks from the cursor on that kvd is not known to have, and where the search ended."""
        group, first = self._groups[position], state.cursors[position]
        hashes = state.names.of(group, range(first, stop))
        wanted: dict[int, bytes] = {}
        for block in range(first, stop):
            name = hashes[(block - first) * 16 : (block - first) * 16 + 16]
            # Block 0 stands for KV that left the sliding window.
            if block_ids[block] == 0 or self._session.knows(group.index, name):
                continue
            if len(wanted) == room:
                return wanted, block
            wanted[block] = name
        return wanted, stop

    def _count_refused(self, group: Group, names: list[bytes], slots: list[int]) -> None:
        for name, slot in zip(names, slots):
            if slot == -1:
                self._session.learn(group.index, name)
        present = slots.count(-1)
        self._stats.count(present_blocks=present, busy_blocks=sum(slot < -1 for slot in slots))

    def absorb(self, reports: Mapping[int, StoreReport]) -> None:
        """Takes the answers of ranks, and ends the leases of what every rank has answered."""
        for store_id, report in reports.items():
            store = self._under_way[store_id]
            store.answer.add(report)
            if len(store.answer.checksums) == self._role.ranks:
                self._end_store(self._under_way.pop(store_id))

    def _end_store(self, store: _StoreUnderWay) -> None:
        ranks = [store.answer.checksums[rank] for rank in sorted(store.answer.checksums)]
        if any(checksums is None for checksums in ranks):
            store.lease.complete([])
            if store.answer.withheld:
                store.state.rewind(store.group, store.blocks[0])
            return
        by_block = zip(*(checksums or [] for checksums in ranks))
        store.lease.complete([(index, list(sums)) for index, sums in zip(store.indices, by_block)])
        group = self._groups[store.group]
        for name in store.names:
            self._session.learn(group.index, name)


def _block_ids(output: SchedulerOutput, request_id: str) -> tuple[list[int], ...]:
    """The engine's blocks of a request scheduled in this step, by group."""
    assert output.kv_connector_block_state is not None
    block_ids = output.kv_connector_block_state.get_block_ids(request_id)
    assert block_ids is not None
    return block_ids
