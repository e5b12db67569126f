"""The second door: `KvdTier` under vLLM's own `OffloadingConnector`, with the copy worker for CPUs."""

from __future__ import annotations

import time
import uuid

import pytest

from engine import Engine, prompt


@pytest.fixture(scope="module")
def build(kvd, make_engine):
    kvd.start()

    def build() -> Engine:
        tier = dict(type="KvdTier", module_path="kvd_connectors.vllm.tier", kvd_socket=kvd.socket)
        extra = dict(
            spec_name="CpuTieringSpec",
            spec_module_path="kvd_connectors.vllm.cpu_worker",
            cpu_bytes_to_use=64 << 20,
            secondary_tiers=[tier],
        )
        transfer = dict(
            kv_connector="OffloadingConnector",
            kv_role="kv_both",
            engine_id=uuid.uuid4().hex,
            kv_load_failure_policy="recompute",
            kv_connector_extra_config=extra,
        )
        return make_engine("llama", None, kv_transfer_config=transfer, prefix_caching_hash_algo="sha256_cbor")

    return build


def test_another_engine_finds_what_this_one_offloaded(build):
    tokens = prompt(1, 700)
    first = build()
    first.ask(tokens)
    right = first.ask(tokens)
    tier = first.core_scheduler.connector.connector_scheduler.manager.secondary_tiers[0]
    deadline = time.monotonic() + 10
    while tier.has_pending_work() and time.monotonic() < deadline:
        first.ask(prompt(2, 40), max_tokens=1)
    second = build()
    answer = second.ask(tokens)
    assert (answer.cached, answer.content) == (672, right.content)
