"""Plays the parts of vLLM around a `KvdScheduler`."""

from __future__ import annotations

from types import SimpleNamespace

import fake_native
from kvd_connectors.vllm.config import KvdConfig, Role
from kvd_connectors.vllm.layout import Group
from kvd_connectors.vllm.metadata import KvdWorkerMetadata, LoadReport, StoreReport
from kvd_connectors.vllm.scheduler import KvdScheduler
from kvd_connectors.vllm.session import Session
from vllm import SamplingParams
from vllm.v1.request import Request

BLOCK = 16
MIB = 1 << 20


def group(index=0, window=None, block_tokens=BLOCK, stripe_bytes=MIB, ranks=1):
    attention = "full_attention" if window is None else f"sliding_window:{window}"
    layout = dict(stripe_bytes=stripe_bytes, ranks=ranks, attention=attention, group=index)
    return Group(index, block_tokens, window, (f"layer{index}",), layout)


class Driver:
    """Plays vLLM's scheduler and all worker ranks for a `KvdScheduler`."""

    def __init__(self, groups=None, ranks=1, stores=True, **config):
        self.groups = groups or [group()]
        background = len(self.groups) > 1 or self.groups[0].window is not None
        client = fake_native.Client(None, "engine", "test", [group.layout for group in self.groups])
        role = Role(ranks, background, stores)
        self.half = KvdScheduler(KvdConfig.parse(config), self.groups, Session(client), role)
        self.ranks = ranks
        self.ids = 0
        self.tables = {}

    def request(self, tokens, salt=None, params=None, **more):
        self.ids += 1
        sampling = SamplingParams(max_tokens=100, extra_args={"kv_transfer_params": params} if params else None)
        request = Request(f"r{self.ids}", list(tokens), sampling, None, cache_salt=salt, **more)
        self.half.new_request(request)
        return request

    def admit(self, request, local=0):
        """Matches, allocates; the number of tokens that kvd provides, or None while it is not known."""
        found, _ = self.half.match(request, local)
        if found is None:
            return None
        base = 1 + 1000 * (self.ids + len(self.tables))
        blocks = len(request.all_token_ids) // BLOCK + 20
        self.tables[request.request_id] = [[base + i for i in range(blocks)] for _ in self.groups]
        self.half.allocated(request, SimpleNamespace(get_block_ids=lambda: self.tables[request.request_id]), found)
        request.num_computed_tokens = local + found
        return found

    def step(self, scheduled, failed=(), corrupt=(), withheld=False):
        """One engine step: `scheduled` maps requests to token counts; block indices in `failed` do not load."""
        numbers = {request.request_id: count for request, count in scheduled.items()}
        block_state = SimpleNamespace(get_block_ids=self.tables.__getitem__)
        output = SimpleNamespace(
            num_scheduled_tokens=numbers,
            total_num_scheduled_tokens=sum(numbers.values()),
            kv_connector_block_state=block_state,
        )
        meta = self.half.plan_step(output)
        for request, count in scheduled.items():
            request.num_computed_tokens += count
        for rank in range(self.ranks):
            self.half.absorb(self._work(meta, rank, set(failed), set(corrupt), withheld))
        return meta

    def _work(self, meta, rank, failed, corrupt, withheld):
        report = KvdWorkerMetadata()
        for op in meta.loads:
            report.loads[op.load_id] = LoadReport(1, set(failed), set(corrupt))
        for op in meta.stores:
            sums = None if withheld else [1] * len(op.slots)
            report.stores[op.store_id] = StoreReport({rank: sums}, withheld)
        return report

    def serve(self, request, local=0):
        """Runs a request's whole prompt in one step and ends it."""
        found = self.admit(request, local)
        meta = self.step({request: request.num_tokens - request.num_computed_tokens})
        params = self.half.finished(request)
        return found, meta, params
