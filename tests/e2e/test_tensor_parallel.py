"""Two ranks, each with its own stripe of every block, in worker processes of their own."""

from __future__ import annotations

import os

import pytest

from engine import prompt

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(kvd, make_engine):
    kvd.start()
    before = os.environ["VLLM_CPU_OMP_THREADS_BIND"]
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
    yield make_engine("llama", kvd.socket, tensor_parallel_size=2)
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = before


def test_a_hit_from_kvd_equals_a_local_hit_on_two_ranks(engine):
    tokens = prompt(1, 700)
    engine.ask(tokens)
    local = engine.ask(tokens)
    external = engine.ask_again_from_kvd(tokens)
    assert (local.cached, external.cached) == (672, 672)
    assert external.content == local.content
    assert set(engine.scheduler.sizes().values()) == {0}
