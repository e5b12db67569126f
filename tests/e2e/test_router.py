"""kvd-router beside a real vLLM and a real kvd: it says where the blocks of a prompt are, and stays right when things go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from vllm.config.kv_events import KVEventsConfig

from engine import Engine, prompt
from make_model import ensure_model
from router import BINARY, Router, free_port

MODEL = "tiny"
SECONDS = 20


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture(scope="module")
def engine(kvd, make_engine, ports) -> Engine:
    kvd.start()
    events = KVEventsConfig(
        enable_kv_cache_events=True,
        publisher="zmq",
        endpoint=f"tcp://*:{ports[0]}",
        replay_endpoint=f"tcp://*:{ports[1]}",
    )
    engine = make_engine("llama", kvd.socket, kv_events_config=events, extra={"connect_wait_ms": 100})
    engine.wait_for_kvd()
    return engine


def members(kvd: Any, ports: tuple[int, int]) -> str:
    at = kvd.addresses()
    return f"""
[[nodes]]
name = "node"
events = "{at["events"]}"
replay = "{at["replay"]}"
admin = "{at["admin"]}"
[[workers]]
name = "vllm"
model = "{MODEL}"
kvd_model = "{ensure_model("llama").name}"
block_tokens = 32
events = "tcp://127.0.0.1:{ports[0]}"
replay = "tcp://127.0.0.1:{ports[1]}"
node = "node"
"""


@pytest.fixture(scope="module")
def router(kvd, engine, ports, tmp_path_factory) -> Iterator[Router]:
    if not BINARY.exists():
        pytest.skip(f"no kvd-router at {BINARY}: build it, or set KVD_ROUTER_BIN")
    router = Router(tmp_path_factory.mktemp("router"), members(kvd, ports))
    router.start()
    yield router
    router.kill()


def wait_for(router: Router, tokens: list[int], expected: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What the worker has of a prompt, as soon as it is as `expected`."""
    deadline = time.monotonic() + SECONDS
    while True:
        answer = router.query(MODEL, tokens)
        has = answer["instances"].get("vllm", {})
        if has and not answer["unknown"] and expected(has):
            return has
        assert time.monotonic() < deadline, f"{answer}\n{router.log()[-3000:]}"
        time.sleep(0.05)


def test_a_prompt_is_found_in_the_engine_and_in_kvd(router, engine):
    tokens = prompt(1, 1000)
    engine.ask(tokens)
    has = wait_for(router, tokens, lambda has: has["gpu"] >= 992)
    assert has["longest_matched"] == 992, "31 whole blocks of 32 tokens"
    assert router.query(MODEL, tokens[:500])["instances"]["vllm"]["longest_matched"] == 480
    assert router.query(MODEL, prompt(99, 500))["instances"].get("vllm", {}).get("longest_matched", 0) == 0


def test_what_the_engine_forgot_kvd_still_has(router, engine):
    tokens = prompt(2, 1000)
    engine.ask(tokens)
    wait_for(router, tokens, lambda has: has["gpu"] >= 992)
    engine.forget_local()
    engine.ask(prompt(3, 100))
    has = wait_for(router, tokens, lambda has: has["gpu"] == 0 and has["longest_matched"] == 992)
    assert has["cpu"] == 992
    assert engine.ask(tokens).cached == 992, "the router was right"


def test_a_salted_prompt_is_another(router, engine):
    tokens = prompt(4, 400)
    engine.ask(tokens, salt="tenant")
    deadline = time.monotonic() + SECONDS
    while router.query(MODEL, tokens, cache_salt="tenant")["instances"].get("vllm", {}).get("gpu", 0) < 384:
        assert time.monotonic() < deadline, router.log()[-3000:]
        time.sleep(0.05)
    assert router.query(MODEL, tokens)["instances"].get("vllm", {}).get("longest_matched", 0) == 0


def test_a_router_that_restarts_knows_the_same(router, engine):
    tokens = prompt(5, 1000)
    engine.ask(tokens)
    before = wait_for(router, tokens, lambda has: has["gpu"] >= 992)
    router.kill()
    router.start()
    assert wait_for(router, tokens, lambda has: has["gpu"] >= 992) == before


def test_a_kvd_that_is_killed_and_comes_back_is_believed_again(router, engine, kvd, ports):
    tokens = prompt(6, 1000)
    engine.ask(tokens)
    engine.forget_local()
    engine.ask(prompt(7, 100))
    wait_for(router, tokens, lambda has: has["gpu"] == 0 and has["longest_matched"] == 992)
    time.sleep(1.0)  # for the images to reach storage
    kvd.kill()
    kvd.start()
    engine.wait_for_kvd()
    router.kill()
    router._config.write_text(router._config.read_text().split("[[nodes]]")[0] + members(kvd, ports))
    router.start()
    has = wait_for(router, tokens, lambda has: has["disk"] == 992)
    assert has["cpu"] < 992, "memory went with the process"
    assert engine.ask(tokens).cached == 992, "the router was right"
