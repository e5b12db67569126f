"""Under `kv_load_failure_policy: fail` a damaged block ends its request, and only that."""

from __future__ import annotations

import pytest

from engine import Engine, Recorder, prompt


@pytest.fixture(scope="module")
def engine(kvd, make_engine) -> Engine:
    kvd.start()
    engine = make_engine("llama", kvd.socket, policy="fail")
    engine.wait_for_kvd()
    return engine


def test_a_damaged_block_fails_its_request_and_the_engine_lives(engine, kvd):
    tokens = prompt(1, 500)
    with Recorder(engine) as recorder:
        right = engine.ask(tokens)
    assert kvd.damage_arena(recorder.payloads[0][5][:512]) >= 1
    failed = engine.ask_again_from_kvd(tokens)
    assert (failed.finish, failed.tokens) == ("error", [])
    assert engine.ask_again_from_kvd(tokens).content == right.content
    assert set(engine.scheduler.sizes().values()) == {0}
