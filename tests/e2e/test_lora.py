"""Adapters change keys and values, so they never share blocks with the base model or with each other."""

from __future__ import annotations

import pytest
from vllm.lora.request import LoRARequest

from engine import Engine, prompt
from make_model import SHAPES, ensure_lora


@pytest.fixture(scope="module")
def engine(kvd, make_engine) -> Engine:
    kvd.start()
    engine = make_engine("llama", kvd.socket, enable_lora=True, max_lora_rank=8)
    engine.wait_for_kvd()
    return engine


@pytest.fixture(scope="module")
def adapters() -> list[str]:
    return [str(ensure_lora(f"lora-tiny-{seed}", SHAPES["tiny"], seed)) for seed in (1, 2)]


def test_adapters_and_the_base_model_do_not_share(engine, adapters):
    tokens = prompt(1, 400)
    first, second = (LoRARequest(f"adapter{n}", n, path) for n, path in enumerate(adapters, 1))
    right = engine.ask(tokens, lora_request=first)
    assert engine.ask_again_from_kvd(tokens).cached == 0
    assert engine.ask_again_from_kvd(tokens, lora_request=second).cached == 0
    again = engine.ask_again_from_kvd(tokens, lora_request=first)
    assert (again.cached, again.content) == (384, right.content)


def test_a_name_that_points_to_another_adapter_is_another_identity(engine, adapters):
    tokens = prompt(2, 400)
    engine.ask(tokens, lora_request=LoRARequest("name", 11, adapters[0]))
    assert engine.ask_again_from_kvd(tokens, lora_request=LoRARequest("name", 12, adapters[1])).cached == 0


def test_the_number_of_an_adapter_does_not_matter(engine, adapters):
    tokens = prompt(3, 400)
    engine.ask(tokens, lora_request=LoRARequest("same", 21, adapters[0]))
    assert engine.ask_again_from_kvd(tokens, lora_request=LoRARequest("same", 22, adapters[0])).cached == 384
