"""The scheduler half: finds hits, arranges loads, plans stores. The only part that talks to kvd.

A hit goes through four hands: `match` finds it and leases its blocks (waiting, between steps, for those on NVMe),
`allocated` learns which engine blocks will take it, `plan_step` ships the copy to the workers, `absorb` takes their
answer and ends the lease. A store: `plan_step` leases slots for blocks that this step fills, `absorb` seals them.

Nothing here waits for kvd longer than one client timeout, and nothing grows beyond the live requests and the steps
under way.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

from vllm.distributed.kv_events import KVCacheEvent
from vllm.logger import init_logger
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.metrics.cache_hit_source import CacheHitSource
from vllm.v1.request import Request

from kvd_connectors import _native
from kvd_connectors.vllm.config import KvdConfig
from kvd_connectors.vllm.events import stored_events
from kvd_connectors.vllm.layout import Group
from kvd_connectors.vllm.matching import longest_usable, needed_blocks
from kvd_connectors.vllm.metadata import KvdMetadata, KvdWorkerMetadata, LoadOp, LoadReport, StoreOp, StoreReport
from kvd_connectors.vllm.request import (
    GroupLoad,
    LoadPlan,
    Names,
    RemotePrefill,
    RequestState,
    why_not_cacheable,
)
from kvd_connectors.vllm.session import CPU, NVME, Session
from kvd_connectors.vllm.stats import KvdStats

logger = init_logger("vllm.kvd")

_IDLE_WAIT_MS = 1
_MOST_FAILED_LOADS = 2
_PLAN_SECONDS = 20.0


@dataclass
class Role:
    """What this engine does with kvd."""

    ranks: int
    """Ranks that each answer for a load or store."""
    background: bool
    """Load between steps and report failures by request. Needed where a failed block cannot be recomputed alone."""
    stores: bool
    emits_events: bool


@dataclass
class _LoadUnderWay:
    request_id: str
    group: int
    blocks: list[int]
    """Position in the sequence of each block of the op."""
    indices: list[int]
    """Index in the lease of each block of the op."""
    part: GroupLoad
    answer: LoadReport


@dataclass
class _StoreUnderWay:
    request_id: str
    group: int
    lease: Any
    blocks: list[int]
    """Position in the sequence of each block of the op."""
    indices: list[int]
    """Index in the lease of each block of the op."""
    names: list[bytes]
    state: RequestState
    answer: StoreReport


class KvdScheduler:
    """See the module. With no groups it does nothing at all, politely."""

    def __init__(self, config: KvdConfig, groups: list[Group], session: Session, role: Role):
        self._config = config
        self._groups = groups
        self._session = session
        self._role = role
        self._requests: dict[str, RequestState] = {}
        self._new_loads: list[LoadOp] = []
        self._loads: dict[int, _LoadUnderWay] = {}
        self._stores: dict[int, _StoreUnderWay] = {}
        self._ids = count(1)
        self._failures: dict[int, int] = {}
        self._may_wait = True
        self._told: set[str] = set()
        self._events: list[KVCacheEvent] = []
        self.stats = KvdStats()

    # ------------------------------------------------------------------ requests

    def new_request(self, request: Request) -> None:
        """Starts to follow a request, unless something about it is not part of the block names."""
        if not self._groups:
            return
        reason = why_not_cacheable(request)
        if reason is not None:
            self._tell_once(f"requests with {reason} are not cached in kvd")
            return
        state = RequestState(request, Names(request, self._groups), [0] * len(self._groups))
        state.remote = self._promise(request)
        self._requests[request.request_id] = state

    def finished(self, request: Request) -> dict[str, Any] | None:
        """Forgets a request. Answers what a decode instance needs when this was the prefill of a split request."""
        state = self._requests.pop(request.request_id, None)
        if state is None:
            return None
        state.drop_plan()
        self._new_loads = [op for op in self._new_loads if not self._abandon(op, request.request_id)]
        wants_decode = (request.kv_transfer_params or {}).get("do_remote_decode")
        return self._hand_over(state) if wants_decode else None

    def _abandon(self, op: LoadOp, request_id: str) -> bool:
        """Drops a load that was planned but not shipped. Background loads are shipped: the engine waits for them."""
        if op.request_id != request_id or self._role.background:
            return False
        self._loads.pop(op.load_id).part.lease.complete()
        return True

    # ------------------------------------------------------------------ hits

    def match(self, request: Request, local_tokens: int) -> tuple[int | None, bool]:
        """How many tokens beyond the local hit kvd has, and whether they load between steps. None: ask again."""
        state = self._requests.get(request.request_id)
        if state is None or request.skip_reading_prefix_cache or not self._session.usable():
            return self._no_hit(state)
        if state.failed_loads >= _MOST_FAILED_LOADS:
            return self._no_hit(state)
        if state.plan is not None and not state.plan.fits(local_tokens, self._session.incarnation):
            state.drop_plan()
        if state.plan is None:
            state.names.extend(request.num_tokens)
            if self._remote_is_late(state, local_tokens):
                return None, False
            state.plan = self._find(state, local_tokens)
        return self._settle(state)

    def _no_hit(self, state: RequestState | None) -> tuple[int, bool]:
        if state is not None:
            state.drop_plan()
        return 0, False

    def _find(self, state: RequestState, start: int) -> LoadPlan | None:
        """Asks kvd where the blocks from `start` on are, and leases those of the longest usable hit."""
        # A load within the step must leave a token to compute; a load between steps may take all.
        limit = state.request.num_tokens - (0 if self._role.background else 1)
        have, states = [], []
        for group in sorted(self._groups, key=lambda group: group.window is not None):
            blocks = range(start // group.block_tokens, limit // group.block_tokens)
            found = self._session.lookup(group.index, state.names.of(group, blocks), group.window is None)
            if found is None:
                return None
            present = [tier >= CPU for tier in found]
            self.stats.count(lookups=1, found_blocks=sum(present))
            have.append((group, (blocks.start, present)))
            states.append((group.index, found))
            if group.window is None:
                limit = min(limit, (blocks.start + len(found)) * group.block_tokens)
        groups, haves = zip(*have)
        end = longest_usable(groups, start, limit, haves)
        return self._lease(state, start, end, dict(states)) if end > start else None

    def _lease(self, state: RequestState, start: int, end: int, states: dict[int, bytes]) -> LoadPlan | None:
        deadline = time.monotonic() + self._config.staging_deadline_ms / 1000
        plan = LoadPlan(start, end, [], self._session.incarnation, deadline, expires=deadline + _PLAN_SECONDS)
        for group in self._groups:
            blocks = needed_blocks(group, start, end)
            first = start // group.block_tokens
            found = states[group.index][blocks.start - first : blocks.stop - first]
            hashes = state.names.of(group, blocks)
            lease = self._session.prepare_load(group.index, hashes, self._config.staging_deadline_ms)
            if lease is None:
                plan.release()
                return None
            plan.parts.append(GroupLoad(group, blocks, hashes, lease, found.count(NVME)))
        return plan

    def _settle(self, state: RequestState) -> tuple[int | None, bool]:
        """Answers with the hit once its blocks are in the arena or late."""
        plan = state.plan
        if plan is None:
            return 0, False
        if not plan.settled(0) and not (self._take_wait() and plan.settled(_IDLE_WAIT_MS)):
            return None, False
        wanted = plan.end
        plan.trim()
        if plan.end < wanted:
            self.stats.count(late_loads=1)
        if plan.end == plan.start:
            return self._no_hit(state)
        return plan.end - plan.start, self._role.background

    def _take_wait(self) -> bool:
        """True once per step of an engine that computes nothing: waiting then saves a core instead of costing time."""
        may_wait, self._may_wait = self._may_wait, False
        return may_wait

    def allocated(self, request: Request, blocks: KVCacheBlocks, external_tokens: int) -> None:
        """The engine made room for the hit, or decided against it when `external_tokens` is zero."""
        state = self._requests.get(request.request_id)
        if state is None or state.plan is None:
            return
        if external_tokens == 0:
            state.drop_plan()
            return
        plan, state.plan = state.plan, None
        state.sources = plan.sources(external_tokens)
        block_ids = blocks.get_block_ids()
        for position, part in enumerate(plan.parts):
            self._plan_load(state, position, part, plan, plan.start + external_tokens, block_ids[part.group.index])

    def _plan_load(
        self, state: RequestState, position: int, part: GroupLoad, plan: LoadPlan, end: int, block_ids: list[int]
    ) -> None:
        group = part.group
        blocks = [block for block in needed_blocks(group, plan.start, end) if block_ids[block] != 0]
        state.cursors[position] = max(state.cursors[position], end // group.block_tokens)
        if not blocks:
            part.lease.complete()
            return
        indices = [block - part.blocks.start for block in blocks]
        granted = part.lease.slots()
        slots = [granted[index] for index in indices]
        # A connection lost since the match took the slots back. No daemon has incarnation 0, so nothing will arrive.
        lost = min(slots) < 0
        op = LoadOp(
            load_id=next(self._ids),
            request_id=state.request.request_id,
            group=position,
            incarnation=0 if lost else plan.incarnation,
            block_ids=[block_ids[block] for block in blocks],
            slots=[0] * len(slots) if lost else slots,
            hashes=b"".join(part.hashes[index * 16 : index * 16 + 16] for index in indices),
        )
        self._new_loads.append(op)
        nothing_yet = LoadReport(0, set(), set())
        self._loads[op.load_id] = _LoadUnderWay(op.request_id, position, blocks, indices, part, nothing_yet)

    def hit_sources(self, request: Request, external_tokens: int) -> dict[CacheHitSource, int]:
        """Which tiers the tokens of the latest hit came from."""
        state = self._requests.get(request.request_id)
        host, disk = state.sources if state is not None else (external_tokens, 0)
        return {source: n for source, n in ((CacheHitSource.HOST, host), (CacheHitSource.DISK, disk)) if n}

    # ------------------------------------------------------------------ steps

    def plan_step(self, output: SchedulerOutput) -> KvdMetadata:
        """The copies that go with this step."""
        idle = output.total_num_scheduled_tokens == 0
        self._may_wait = idle
        loads, self._new_loads = self._new_loads, []
        stores = self._plan_stores(output) if self._role.stores and not idle and self._session.usable() else []
        return KvdMetadata(loads, stores, idle, dict(self._failures))

    def _plan_stores(self, output: SchedulerOutput) -> list[StoreOp]:
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
                promised = bool((state.request.kv_transfer_params or {}).get("do_remote_decode"))
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
        self._stores[op.store_id] = _StoreUnderWay(
            request_id=state.request.request_id,
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
        self.stats.count(present_blocks=present, busy_blocks=sum(slot < -1 for slot in slots))

    # ------------------------------------------------------------------ answers

    def absorb(self, answer: KvdWorkerMetadata) -> None:
        """Ends the leases of what every rank has answered."""
        self._failures |= answer.failures
        for load_id, load_report in answer.loads.items():
            load = self._loads[load_id]
            load.answer.add(load_report)
            if load.answer.ranks == self._role.ranks:
                self._end_load(self._loads.pop(load_id))
        for store_id, store_report in answer.stores.items():
            store = self._stores[store_id]
            store.answer.add(store_report)
            if len(store.answer.checksums) == self._role.ranks:
                self._end_store(self._stores.pop(store_id))

    def _end_load(self, load: _LoadUnderWay) -> None:
        part, answer = load.part, load.answer
        part.lease.complete([load.indices[index] for index in sorted(answer.corrupt)])
        for index, at in enumerate(load.indices):
            name = part.hashes[at * 16 : at * 16 + 16]
            learn_or_forget = self._session.forget if index in answer.failed else self._session.learn
            learn_or_forget(part.group.index, name)
        if answer.failed:
            self._rewind(load.request_id, load.group, load.blocks[min(answer.failed)])
            state = self._requests.get(load.request_id)
            if state is not None:
                state.failed_loads += 1

    def _end_store(self, store: _StoreUnderWay) -> None:
        ranks = [store.answer.checksums[rank] for rank in sorted(store.answer.checksums)]
        if any(checksums is None for checksums in ranks):
            store.lease.complete([])
            if store.answer.withheld:
                self._rewind(store.request_id, store.group, store.blocks[0])
            return
        by_block = zip(*(checksums or [] for checksums in ranks))
        store.lease.complete([(index, list(sums)) for index, sums in zip(store.indices, by_block)])
        group = self._groups[store.group]
        for name in store.names:
            self._session.learn(group.index, name)
        if self._role.emits_events:
            self._events.extend(stored_events(store.state, group, store.blocks))

    def _rewind(self, request_id: str, position: int, block: int) -> None:
        """Thinks again about storing the blocks from `block` on."""
        state = self._requests.get(request_id)
        if state is not None:
            state.cursors[position] = min(state.cursors[position], block)

    def take_events(self) -> Iterable[KVCacheEvent]:
        """Events since the last call."""
        taken, self._events = self._events, []
        return taken

    # ------------------------------------------------------------------ split prefill and decode

    def _hand_over(self, state: RequestState) -> dict[str, Any]:
        """Tells the decode instance which blocks to expect. It would find them by name even without."""
        group = self._reference_group()
        blocks = min(state.request.num_computed_tokens // group.block_tokens, state.cursors[group.index])
        last = state.names.of(group, range(blocks - 1, blocks)) if blocks else b""
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "kvd": {
                "node": socket.gethostname(),
                "socket": self._session.socket,
                "num_tokens": blocks * group.block_tokens,
                "last_block_hash": last.hex(),
                "layouts": [_native.layout_id(group.layout) for group in self._groups],
            },
        }

    def _promise(self, request: Request) -> RemotePrefill | None:
        params = request.kv_transfer_params or {}
        hint = params.get("kvd") if params.get("do_remote_prefill") else None
        if not isinstance(hint, dict) or hint.get("node") != socket.gethostname():
            return None
        try:
            num_tokens, last_block = int(hint["num_tokens"]), bytes.fromhex(hint["last_block_hash"])
        except (KeyError, TypeError, ValueError):
            self._tell_once("kv_transfer_params of another version of the connector are ignored")
            return None
        deadline = time.monotonic() + self._config.remote_wait_ms / 1000
        return RemotePrefill(num_tokens, last_block, deadline)

    def _remote_is_late(self, state: RequestState, local_tokens: int) -> bool:
        """True while the last block that a prefill instance promised is not visible yet but may still come."""
        promise = state.remote
        if promise is None or promise.num_tokens <= local_tokens:
            return False
        state.remote = None
        group = self._reference_group()
        last = promise.num_tokens // group.block_tokens - 1
        known = state.names.chains[group.block_tokens].num_blocks
        if last >= known or state.names.of(group, range(last, last + 1)) != promise.last_block:
            self._tell_once("a prefill instance names blocks differently: model, adapter, salt or block size differ")
            return False
        found = self._session.lookup(group.index, promise.last_block, True)
        if found is None or (found and found[0] >= CPU) or time.monotonic() >= promise.deadline:
            return False
        state.remote = promise
        if self._take_wait():
            time.sleep(_IDLE_WAIT_MS / 1000)
        return True

    def _reference_group(self) -> Group:
        """The group whose last block tells that a prefill is stored: one that keeps every block, if there is one."""
        return min(self._groups, key=lambda group: group.window is not None)

    # ------------------------------------------------------------------ housekeeping

    def reset(self) -> None:
        """Forgets what kvd is known to have; kvd itself keeps its blocks."""
        self._session.forget_all()

    def close(self) -> None:
        """Ends the session with kvd."""
        for state in self._requests.values():
            state.drop_plan()
        self._session.close()

    def sizes(self) -> dict[str, int]:
        """How much is being remembered, by kind. All zero when no request lives."""
        return dict(
            requests=len(self._requests), planned=len(self._new_loads), loads=len(self._loads), stores=len(self._stores)
        )

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            logger.warning("%s", text)


def _block_ids(output: SchedulerOutput, request_id: str) -> tuple[list[int], ...]:
    """The engine's blocks of a request scheduled in this step, by group."""
    assert output.kv_connector_block_state is not None
    block_ids = output.kv_connector_block_state.get_block_ids(request_id)
    assert block_ids is not None
    return block_ids
