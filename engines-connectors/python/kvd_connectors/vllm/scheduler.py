"""The scheduler half: finds hits, arranges loads, and has stores planned. The only half that talks to kvd.

A hit goes through four hands: `match` finds it and leases its blocks (waiting, between steps, for those on NVMe),
`allocated` learns which engine blocks will take it, `plan_step` ships the copy to the workers, `absorb` takes their
answer and ends the lease. Stores are in `stores.py`.

Nothing here waits for kvd longer than one client timeout, and nothing grows beyond the live requests and the steps
under way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count
from typing import Any

from vllm.logger import init_logger
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.metrics.cache_hit_source import CacheHitSource
from vllm.v1.request import Request

from kvd_connectors.vllm.config import KvdConfig, Role
from kvd_connectors.vllm.handover import hand_over, promise_of, reference_group, wants_decode_elsewhere
from kvd_connectors.vllm.layout import Group
from kvd_connectors.vllm.matching import longest_usable, needed_blocks
from kvd_connectors.vllm.metadata import KvdMetadata, KvdWorkerMetadata, LoadOp, LoadReport
from kvd_connectors.vllm.request import (
    GroupLoad,
    LoadPlan,
    Names,
    RequestState,
    why_not_cacheable,
)
from kvd_connectors.vllm.session import CPU, NVME, Session
from kvd_connectors.vllm.stats import KvdStats
from kvd_connectors.vllm.stores import Stores

logger = init_logger("vllm.kvd")

_IDLE_WAIT_MS = 1
_MOST_FAILED_LOADS = 2
_PLAN_SECONDS = 20.0


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
        self._ids = count(1)
        self._failures: dict[int, int] = {}
        self._may_wait = True
        self.stats = KvdStats()
        self.stores = Stores(config, groups, session, role, self._requests, self.stats)

    # ------------------------------------------------------------------ requests

    def new_request(self, request: Request) -> None:
        """Starts to follow a request, unless something about it is not part of the block names."""
        if not self._groups:
            return
        reason = why_not_cacheable(request)
        if reason is not None:
            logger.warning_once("requests with %s are not cached in kvd", reason)
            return
        state = RequestState(request, Names(request, self._groups), [0] * len(self._groups))
        state.remote = promise_of(request, self._config.remote_wait_ms)
        self._requests[request.request_id] = state

    def finished(self, request: Request) -> dict[str, Any] | None:
        """Forgets a request. Answers what a decode instance needs when this was the prefill of a split request."""
        state = self._requests.pop(request.request_id, None)
        if state is None:
            return None
        state.drop_plan()
        self._new_loads = [op for op in self._new_loads if not self._abandon(op, request.request_id)]
        return hand_over(state, self._groups, self._session.socket) if wants_decode_elsewhere(request) else None

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
        stores = self.stores.plan(output) if self._role.stores and not idle and self._session.usable() else []
        return KvdMetadata(loads, stores, idle, dict(self._failures))

    # ------------------------------------------------------------------ answers

    def absorb(self, answer: KvdWorkerMetadata) -> None:
        """Ends the leases of what every rank has answered."""
        self._failures |= answer.failures
        for load_id, load_report in answer.loads.items():
            load = self._loads[load_id]
            load.answer.add(load_report)
            if load.answer.ranks == self._role.ranks:
                self._end_load(self._loads.pop(load_id))
        self.stores.absorb(answer.stores)

    def _end_load(self, load: _LoadUnderWay) -> None:
        part, answer = load.part, load.answer
        part.lease.complete([load.indices[index] for index in sorted(answer.corrupt)])
        for index, at in enumerate(load.indices):
            name = part.hashes[at * 16 : at * 16 + 16]
            learn_or_forget = self._session.forget if index in answer.failed else self._session.learn
            learn_or_forget(part.group.index, name)
        state = self._requests.get(load.request_id)
        if answer.failed and state is not None:
            state.rewind(load.group, load.blocks[min(answer.failed)])
            state.failed_loads += 1

    # ------------------------------------------------------------------ split prefill and decode

    def _remote_is_late(self, state: RequestState, local_tokens: int) -> bool:
        """True while the last block that a prefill instance promised is not visible yet but may still come."""
        promise = state.remote
        if promise is None or promise.num_tokens <= local_tokens:
            return False
        state.remote = None
        group = reference_group(self._groups)
        last = promise.num_tokens // group.block_tokens - 1
        known = state.names.chains[group.block_tokens].num_blocks
        if last >= known or state.names.of(group, range(last, last + 1)) != promise.last_block:
            logger.warning_once(
                "a prefill instance names blocks differently: model, adapter, salt or block size differ"
            )
            return False
        found = self._session.lookup(group.index, promise.last_block, True)
        if found is None or (found and found[0] >= CPU) or time.monotonic() >= promise.deadline:
            return False
        state.remote = promise
        if self._take_wait():
            time.sleep(_IDLE_WAIT_MS / 1000)
        return True

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
            requests=len(self._requests), planned=len(self._new_loads), loads=len(self._loads), stores=len(self.stores)
        )
