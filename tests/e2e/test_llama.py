"""One group with full attention: hits, damage, isolation and hygiene, on one small llama."""

from __future__ import annotations

import itertools
import socket

import pytest
from kvd_connectors import _native
from kvd_connectors.vllm.config import KvdConfig
from vllm import SamplingParams, TokensPrompt

from engine import Engine, Recorder, prompt

BLOCK = 32


@pytest.fixture(scope="module")
def engine(kvd, make_engine) -> Engine:
    kvd.start()
    # Room for 160 blocks, so that a handful of requests preempt each other; chunks of 256 tokens.
    engine = make_engine("llama", kvd.socket, num_gpu_blocks_override=160, max_num_batched_tokens=256)
    engine.wait_for_kvd()
    return engine


@pytest.fixture(autouse=True)
def nothing_is_left_behind(engine):
    yield
    assert set(engine.scheduler.sizes().values()) == {0}


def test_a_hit_from_kvd_equals_a_local_hit_bit_by_bit(engine):
    tokens = prompt(1, 700)
    engine.ask(tokens)
    local = engine.ask(tokens)
    external = engine.ask_again_from_kvd(tokens)
    assert (local.cached, external.cached) == (672, 672)
    assert external.content == local.content


def test_a_prompt_that_ends_on_a_block_border_leaves_one_block_to_compute(engine):
    tokens = prompt(2, 10 * BLOCK)
    first = engine.ask(tokens)
    again = engine.ask_again_from_kvd(tokens)
    assert again.cached == 9 * BLOCK
    assert again.tokens == first.tokens


def test_blocks_filled_by_generation_are_stored_too(engine):
    tokens = prompt(3, 5 * BLOCK)
    answer = engine.ask(tokens, max_tokens=3 * BLOCK)
    longer = tokens + answer.tokens[:-1]
    again = engine.ask_again_from_kvd(longer)
    assert again.cached == 7 * BLOCK


def test_a_local_hit_is_continued_by_kvd(engine):
    tokens = prompt(4, 600)
    whole = engine.ask(tokens)
    engine.forget_local()
    engine.ask(tokens[:300])
    mixed = engine.ask(tokens)
    assert mixed.cached == 576
    assert mixed.content == whole.content


def test_the_cache_is_what_the_answer_depends_on(engine, monkeypatch):
    tokens = prompt(5, 700)
    right = engine.ask(tokens)
    worker, load = engine.worker, engine.worker._load

    def load_zeros(op):
        outcome = load(op)
        for name in worker._groups[op.group].layer_names:
            engine.layer_caches()[name][op.block_ids] = 0
        return outcome

    monkeypatch.setattr(worker, "_load", load_zeros)
    wrong = engine.ask_again_from_kvd(tokens)
    assert wrong.cached == 672
    assert wrong.tokens != right.tokens
    engine.forget_local()


@pytest.mark.parametrize("damaged", [0, 9, 20])
def test_a_damaged_block_is_recomputed(engine, kvd, damaged):
    tokens = prompt(100 + damaged, 700)
    with Recorder(engine) as recorder:
        engine.ask(tokens)
    right = engine.ask(tokens)
    assert kvd.damage_arena(recorder.payloads[0][damaged][:512]) >= 1
    healed = engine.ask_again_from_kvd(tokens)
    assert healed.content == right.content
    again = engine.ask_again_from_kvd(tokens)
    assert (again.cached, again.content) == (672, right.content)


def test_loading_layer_by_layer_gives_the_same_answer(engine, monkeypatch, kvd):
    tokens = prompt(12, 700)
    with Recorder(engine) as recorder:
        engine.ask(tokens)
    right = engine.ask(tokens)
    monkeypatch.setattr(engine.worker, "_layerwise", True)
    layered = engine.ask_again_from_kvd(tokens)
    assert (layered.cached, layered.content) == (672, right.content)
    kvd.damage_arena(recorder.payloads[0][7][:512])
    assert engine.ask_again_from_kvd(tokens).content == right.content


def test_salts_do_not_share(engine):
    tokens = prompt(6, 400)
    engine.ask(tokens, salt="one")
    assert engine.ask_again_from_kvd(tokens, salt="two").cached == 0
    assert engine.ask_again_from_kvd(tokens).cached == 0
    assert engine.ask_again_from_kvd(tokens, salt="one").cached == 384


def test_prompt_logprobs_are_computed_not_looked_up(engine):
    tokens = prompt(7, 200)
    engine.ask(tokens)
    engine.forget_local()
    sampling = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=1)
    output = engine.llm.generate([TokensPrompt(prompt_token_ids=tokens)], sampling, use_tqdm=False)[0]
    assert output.num_cached_tokens == 0
    assert len(output.prompt_logprobs) == 200


def test_a_step_stores_no_more_than_its_budget_and_catches_up(engine, monkeypatch):
    stores = engine.scheduler.stores
    most = (1 << 20) // stores._groups[0].block_bytes
    monkeypatch.setattr(stores, "_config", KvdConfig(store_budget_mb_per_step=1))
    sizes: list[int] = []
    store = engine.worker.store
    monkeypatch.setattr(
        engine.worker, "store", lambda meta: (sizes.extend(len(op.slots) for op in meta.stores), store(meta))
    )
    tokens = prompt(8, 80 * BLOCK)
    engine.ask(tokens, max_tokens=40)
    assert max(sizes) <= most
    assert sum(sizes) == 81
    assert engine.ask_again_from_kvd(tokens).cached == 79 * BLOCK


def submit(engine, count, first_seed, length, max_tokens):
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    names = [f"storm-{first_seed + index}" for index in range(count)]
    for index, name in enumerate(names):
        engine.llm.llm_engine.add_request(
            name, TokensPrompt(prompt_token_ids=prompt(first_seed + index, length)), sampling
        )
    return names


def drain(engine):
    finished = []
    while engine.llm.llm_engine.has_unfinished_requests():
        finished += [output for output in engine.llm.llm_engine.step() if output.finished]
    return finished


def test_a_storm_of_aborts_leaks_nothing(engine):
    core = engine.llm.llm_engine
    for burst, steps in itertools.product(range(4), (0, 1, 2, 5)):
        seed = 1000 + (burst % 2) * 50
        names = submit(engine, 6, seed, 300, 8)
        for _ in range(steps):
            core.step()
        core.abort_request(names)
    drain(engine)
    assert engine.ask(prompt(1000, 300)).finish == "length"


def test_a_storm_of_preemptions_leaks_nothing(engine):
    names = submit(engine, 10, 2000, 500, 60)
    finished = drain(engine)
    assert len(finished) == len(names)
    preemptions = [metric.value for metric in engine.llm.get_metrics() if metric.name == "vllm:num_preemptions"]
    assert sum(preemptions) > 0
    assert engine.core_scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == 159


def test_a_prefill_instance_hands_over_what_decode_needs(engine):
    tokens = prompt(9, 500)
    ask = {"kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False}}
    prefill = engine.ask(tokens, max_tokens=1, extra_args=ask)
    hint = prefill.params["kvd"]
    assert (prefill.params["do_remote_prefill"], hint["num_tokens"]) == (True, 480)
    assert len(bytes.fromhex(hint["last_block_hash"])) == 16
    before = engine.external_hits()
    decode = engine.ask_again_from_kvd(tokens, extra_args={"kv_transfer_params": prefill.params})
    assert engine.external_hits() - before == 480
    assert decode.content == engine.ask(tokens).content


def test_a_promise_that_never_comes_true_delays_by_a_bounded_time(engine, monkeypatch):
    tokens = prompt(10, 300)
    scheduler = engine.scheduler
    monkeypatch.setattr(scheduler, "_config", KvdConfig(remote_wait_ms=300))
    chain = _native.Chain(BLOCK)
    chain.extend(tokens)
    hint = dict(node=socket.gethostname(), num_tokens=9 * BLOCK, last_block_hash=chain.hashes(8, 9).hex())
    params = {"kv_transfer_params": {"do_remote_prefill": True, "kvd": hint}}
    before = engine.external_hits()
    late = engine.ask(tokens, extra_args=params)
    assert engine.external_hits() == before
    assert 0.3 <= late.seconds < 10


def test_metrics_name_the_tier(engine):
    tokens = prompt(11, 300)
    engine.ask(tokens)
    engine.ask_again_from_kvd(tokens)
    by_source = {
        metric.labels["source"]: metric.value
        for metric in engine.llm.get_metrics()
        if metric.name == "vllm:prompt_tokens_cached_by_source"
    }
    assert by_source["host"] >= 288
    loaded = [metric.value for metric in engine.llm.get_metrics() if metric.name == "vllm:kvd_loaded_blocks"]
    assert sum(loaded) >= 9
