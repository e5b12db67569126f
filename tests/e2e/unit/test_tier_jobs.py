from types import SimpleNamespace

import fake_native
import numpy as np
import pytest
from fake_native import KVD
from kvd_connectors.vllm import tier as tier_module
from kvd_connectors.vllm.tier import KvdTier
from vllm.v1.kv_offload.base import LookupResult, make_offload_key

CHUNKS, CHUNK_BYTES = 8, 4096
KEYS = [make_offload_key(bytes([n]) * 32, 0) for n in range(4)]


@pytest.fixture
def region():
    return np.random.default_rng(0).integers(0, 127, (CHUNKS, CHUNK_BYTES), dtype=np.int8)


@pytest.fixture
def tier(kvd, region, monkeypatch):
    monkeypatch.setattr(tier_module, "_native", fake_native)
    monkeypatch.setattr(tier_module, "_chunk_layout", lambda *_: {})
    config = SimpleNamespace(engine_id="engine")
    tier = KvdTier(SimpleNamespace(config=config), memoryview(region), "KvdTier", kvd_socket="/x")
    yield tier
    tier.shutdown()
    assert not KVD.leases


def job(number, keys, chunks):
    return SimpleNamespace(job_id=number, keys=keys, chunk_ids=np.array(chunks))


def finish(tier):
    tier.drain_jobs()
    return {result.job_id: result for result in tier.get_finished_jobs()}


def test_a_chunk_comes_back_as_it_went(tier, region):
    assert tier.lookup(KEYS[0], None) is LookupResult.MISS
    tier.submit_store(job(1, KEYS[:2], [3, 5]))
    assert finish(tier)[1].success
    assert tier.lookup(KEYS[0], None) is LookupResult.HIT
    before = region[[3, 5]].copy()
    region[[1, 2]] = 0
    tier.submit_load(job(2, KEYS[:2], [2, 1]))
    assert finish(tier)[2].success
    assert (region[[2, 1]] == before).all()


def test_only_chunks_that_arrived_are_reported(tier):
    tier.submit_store(job(1, KEYS[:3], [0, 1, 2]))
    finish(tier)
    slot = KVD.blocks[0, tier_module._names(KEYS[1:2])]
    KVD.slots[slot, 0] = (b"x" * CHUNK_BYTES, 0)
    tier.submit_load(job(2, KEYS, [4, 5, 6, 7]))
    result = finish(tier)[2]
    assert not result.success
    assert set(result.successful_keys) == {KEYS[0], KEYS[2]}
    assert tier.lookup(KEYS[1], None) is LookupResult.MISS


def test_groups_do_not_share_chunks(tier):
    tier.submit_store(job(1, [make_offload_key(b"h" * 32, 0)], [0]))
    finish(tier)
    assert tier.lookup(make_offload_key(b"h" * 32, 1), None) is LookupResult.MISS


def test_without_kvd_everything_is_a_miss(tier):
    KVD.up = False
    assert tier.lookup(KEYS[0], None) is LookupResult.MISS
    tier.submit_store(job(1, KEYS, [0, 1, 2, 3]))
    tier.submit_load(job(2, KEYS, [0, 1, 2, 3]))
    assert [result.success for result in finish(tier).values()] == [False, False]
    assert not tier.has_pending_work()
