"""The same contract on other attention schemes: GQA with norms, sliding windows, hybrids, latent attention."""

from __future__ import annotations

import pytest

from engine import Engine, Recorder, prompt

BLOCKS = {"qwen3": 32, "gemma3": 32, "mistral": 32, "deepseek": 16}


@pytest.fixture(scope="module", params=BLOCKS)
def arch(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def engine(arch, kvd, make_engine) -> Engine:
    if kvd.process is None:
        kvd.start()
    engine = make_engine(arch, kvd.socket, block_size=BLOCKS[arch], max_num_batched_tokens=512)
    engine.wait_for_kvd()
    return engine


@pytest.fixture(autouse=True)
def nothing_is_left_behind(engine):
    yield
    assert set(engine.scheduler.sizes().values()) == {0}


def whole(arch, tokens):
    return (len(tokens) - 1) // BLOCKS[arch] * BLOCKS[arch]


def test_a_hit_from_kvd_equals_a_local_hit_bit_by_bit(arch, engine):
    tokens = prompt(1, 1000)
    engine.ask(tokens)
    local = engine.ask(tokens)
    external = engine.ask_again_from_kvd(tokens)
    assert (local.cached, external.cached) == (whole(arch, tokens), whole(arch, tokens))
    assert external.content == local.content
    assert len(set(local.tokens)) > 5, "a model that repeats itself proves nothing"


def test_the_cache_is_what_the_answer_depends_on(engine, monkeypatch):
    tokens = prompt(2, 700)
    right = engine.ask(tokens)
    worker, load = engine.worker, engine.worker._load

    def load_zeros(op):
        outcome = load(op)
        for name in worker._groups[op.group].layer_names:
            engine.layer_caches()[name][op.block_ids] = 0
        return outcome

    monkeypatch.setattr(worker, "_load", load_zeros)
    wrong = engine.ask_again_from_kvd(tokens)
    assert wrong.cached > 600
    assert wrong.content != right.content
    engine.forget_local()


def test_a_damaged_block_is_recomputed(arch, engine, kvd, monkeypatch):
    tokens = prompt(3, 1000)
    with Recorder(engine) as recorder:
        engine.ask(tokens, max_tokens=1)
    # Near the end, where every window reads it.
    position = whole(arch, tokens) // BLOCKS[arch] - 3
    assert kvd.damage_arena(recorder.payloads[0][position][:512]) == 1
    healed = engine.ask_again_from_kvd(tokens)
    kept = healed.cached if engine.worker._in_background else position * BLOCKS[arch]
    assert engine.ask_again_from_kvd(tokens).cached == whole(arch, tokens)
    # The exact oracle: the same stored prefix, with nothing damaged, and the same rest to compute.
    session, lookup = engine.scheduler._session, engine.scheduler._session.lookup
    monkeypatch.setattr(session, "lookup", lambda *question: lookup(*question)[: kept // BLOCKS[arch]])
    oracle = engine.ask_again_from_kvd(tokens)
    assert oracle.cached == kept
    assert healed.content == oracle.content


def test_many_requests_at_once_leak_nothing(engine):
    prompts = [dict(prompt_token_ids=prompt(50 + index % 4, 600)) for index in range(8)]
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    for _ in range(2):
        outputs = engine.llm.generate(prompts, sampling, use_tqdm=False)
        assert len(outputs) == 8
        engine.forget_local()
    assert all(output.num_cached_tokens > 500 for output in outputs)
