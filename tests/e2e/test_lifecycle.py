"""kvd comes, goes and comes back while one engine keeps answering."""

from __future__ import annotations

import time

import pytest
from vllm import SamplingParams, TokensPrompt

from engine import Engine, Recorder, prompt


@pytest.fixture(scope="module")
def engine(kvd, make_engine) -> Engine:
    return make_engine("llama", kvd.socket, max_num_batched_tokens=256, extra={"connect_wait_ms": 100})


@pytest.fixture
def running(kvd, engine):
    """kvd is up and the engine knows it."""
    if kvd.process is None:
        kvd.start()
    engine.wait_for_kvd()
    return kvd


def test_an_engine_starts_without_kvd_and_connects_when_it_comes(kvd, engine):
    tokens = prompt(1, 400)
    alone = engine.ask(tokens)
    assert engine.ask_again_from_kvd(tokens).cached == 0
    kvd.start()
    engine.wait_for_kvd()
    engine.ask_again_from_kvd(tokens)
    together = engine.ask_again_from_kvd(tokens)
    assert (together.cached, together.content) == (384, alone.content)


def test_a_kvd_killed_in_the_middle_of_a_prefill_changes_nothing(running, engine):
    tokens = prompt(2, 1500)
    right = engine.ask(tokens, max_tokens=16)
    for steps in (0, 1, 3):
        running.kill()
        running.start()
        engine.wait_for_kvd()
        engine.forget_local()
        sampling = SamplingParams(temperature=0, max_tokens=16, logprobs=5, ignore_eos=True)
        engine.llm.llm_engine.add_request(f"killed-{steps}", TokensPrompt(prompt_token_ids=tokens), sampling)
        for _ in range(steps):
            engine.llm.llm_engine.step()
        running.kill()
        outputs = []
        while engine.llm.llm_engine.has_unfinished_requests():
            outputs += engine.llm.llm_engine.step()
        assert list(outputs[-1].outputs[0].token_ids) == right.tokens
        assert set(engine.scheduler.sizes().values()) == {0}
        running.start()


def test_a_kvd_killed_between_match_and_load_is_recomputed(running, engine, monkeypatch):
    tokens = prompt(3, 700)
    right = engine.ask(tokens)
    engine.forget_local()
    original = engine.scheduler.plan_step

    def die_first(output):
        if engine.scheduler._new_loads:
            running.kill()
        return original(output)

    monkeypatch.setattr(engine.scheduler, "plan_step", die_first)
    survived = engine.ask(tokens)
    assert survived.content == right.content
    assert set(engine.scheduler.sizes().values()) == {0}


def wait_until_on_nvme(engine, kvd, tokens):
    """Restarts kvd until it comes back with all of `tokens`: they are on NVMe then."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        kvd.stop()
        kvd.start()
        engine.wait_for_kvd()
        engine.forget_local()
        if (answer := engine.ask(tokens)).cached >= (len(tokens) - 1) // 32 * 32:
            return answer
        time.sleep(0.5)
    pytest.fail("the blocks did not reach NVMe")


def test_a_restarted_kvd_is_warm_from_nvme(running, engine):
    tokens = prompt(4, 700)
    right = engine.ask(tokens)
    warm = wait_until_on_nvme(engine, running, tokens)
    assert (warm.cached, warm.content) == (672, right.content)
    sources = {
        metric.labels["source"]: metric.value
        for metric in engine.llm.get_metrics()
        if metric.name == "vllm:prompt_tokens_cached_by_source"
    }
    assert sources["disk"] >= 672


def test_a_block_damaged_on_nvme_is_a_miss(running, engine):
    tokens = prompt(5, 700)
    with Recorder(engine) as recorder:
        engine.ask(tokens)
    right = engine.ask(tokens)
    wait_until_on_nvme(engine, running, tokens)
    running.stop()
    assert running.damage_nvme(recorder.payloads[0][10][:512]) >= 1
    running.start()
    engine.wait_for_kvd()
    healed = engine.ask_again_from_kvd(tokens)
    assert healed.content == right.content
    assert healed.cached <= 10 * 32
    assert engine.ask_again_from_kvd(tokens).cached == 672


def test_steps_are_fast_while_kvd_is_away(running, engine):
    tokens = prompt(6, 300)
    engine.ask(tokens)
    present = min(engine.ask_again_from_kvd(prompt(60 + n, 300), max_tokens=1).seconds for n in range(3))
    running.kill()
    engine.wait_for_kvd(present=False)
    away = min(engine.ask_again_from_kvd(prompt(70 + n, 300), max_tokens=1).seconds for n in range(3))
    assert away < present * 3 + 0.2
