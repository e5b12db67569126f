"""The event stream, read by the consumer that `docs/formats/events.md` gives to the world, and by vLLM's own decoder."""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from daemon import BINARY, Kvd

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats" / "events.md"
BLOCK_TOKENS = 4
LAYOUT = dict(
    model="m",
    weights="w",
    kv_dtype="bfloat16",
    block_tokens=BLOCK_TOKENS,
    group=0,
    attention="full_attention",
    geometry="test",
    ranks=1,
    stripe_bytes=10_000,
)


def documented() -> Any:
    """The Python of the document, as it stands there."""
    namespace: dict[str, Any] = {}
    for name in ("consumer", "snapshot"):
        (code,) = re.findall(rf"```python {name}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        exec(compile(code, f"{DOCUMENT}:{name}", "exec"), namespace)
    return SimpleNamespace(**namespace)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Kvd]]:
    """A small daemon, so that blocks are soon evicted from both tiers."""
    started = []

    def start(more: str = "") -> Kvd:
        kvd = Kvd(tmp_path, arena="32MiB", nvme="64MiB")
        kvd.config.write_text(kvd.config.read_text() + more)
        kvd.start()
        started.append(kvd)
        return kvd

    if not BINARY.exists():
        pytest.skip(f"no kvd at {BINARY}: build it, or set KVD_BIN")
    yield start
    for kvd in started:
        kvd.kill()


def store(kvd: Kvd, first: int, sequences: int, blocks: int = 100) -> None:
    """Stores sequences of blocks nobody stored before. Their bytes are not looked at."""
    from kvd_connectors import _native

    client = _native.Client(kvd.socket, f"events-{first}", "test", [LAYOUT], timeout_ms=5000)
    for number in range(first, first + sequences):
        chain = _native.Chain(BLOCK_TOKENS)
        chain.extend([number * 10_000 + token for token in range(blocks * BLOCK_TOKENS)])
        lent = client.prepare_store(0, chain, list(range(blocks)))
        assert lent is not None, client.last_error
        lent.complete([(index, [0]) for index, slot in enumerate(lent.slots()) if slot >= 0])
    client.close()


def status(kvd: Kvd) -> dict[str, Any]:
    return json.loads(subprocess.run(kvd.control("status", "--json"), capture_output=True, check=True).stdout)


def churn(kvd: Kvd) -> None:
    """Stores until blocks have been evicted from both tiers."""
    for piece in range(100):
        store(kvd, piece * 5, 5)
        counters = status(kvd)["counters"]
        if counters["kvd_evicted_cpu_total"] > 0 and counters["kvd_evicted_nvme_total"] > 0:
            return
        time.sleep(0.1)
    raise AssertionError("nothing was evicted")


def wait_until_quiet(kvd: Kvd) -> dict[str, Any]:
    """Returns once residency has not changed for a while."""
    deadline, before = time.monotonic() + 60, None
    while time.monotonic() < deadline:
        now = status(kvd)
        if now["digest"] == before:
            return now
        before = now["digest"]
        time.sleep(0.5)
    raise AssertionError("kvd was never quiet")


def compare(consumer: Any, kvd: Kvd, view: Any) -> None:
    """Holds a view to what the daemon says of itself, now that nothing happens."""
    now = wait_until_quiet(kvd)
    assert consumer.replay(view, kvd.addresses()["replay"]) and view.exact and view.life == now["incarnation"]
    assert dict(sum=view.sum, count=len(view.blocks)) == now["digest"]
    other = consumer.View()
    consumer.snapshot(other, kvd.control("snapshot"))
    assert (other.blocks, other.sum) == (view.blocks, view.sum)
    assert len(view.blocks) > 1000


def test_the_documents_consumer_keeps_an_exact_view_over_a_line_that_loses_messages(start):
    consumer, kvd, dice = documented(), start(), random.Random(1)
    view, gaps = consumer.View(), 0
    with zmq.Context.instance().socket(zmq.SUB) as line:
        line.connect(kvd.addresses()["events"])
        line.subscribe(b"kvd")
        for piece in range(25):
            store(kvd, piece * 3, 3)
            while line.poll(200):
                _, number, payload = line.recv_multipart()
                if dice.random() < 0.3:
                    continue
                if not view.take(int.from_bytes(number, "big"), payload):
                    gaps += 1
                    assert consumer.replay(view, kvd.addresses()["replay"])
                assert view.exact
    assert gaps > 3
    counters = status(kvd)["counters"]
    assert counters["kvd_evicted_cpu_total"] > 0 and counters["kvd_evicted_nvme_total"] > 0
    compare(consumer, kvd, view)


def test_the_documents_consumer_takes_the_snapshot_when_the_replay_cannot_help(start):
    consumer, kvd = documented(), start("buffer = 8\n")
    store(kvd, 0, 30)
    view = consumer.View()
    assert not consumer.replay(view, kvd.addresses()["replay"]), "the first messages are gone"
    consumer.snapshot(view, kvd.control("snapshot"))
    store(kvd, 30, 2)
    if not consumer.replay(view, kvd.addresses()["replay"]):
        wait_until_quiet(kvd)
        consumer.snapshot(view, kvd.control("snapshot"))
    compare(consumer, kvd, view)


def test_the_documents_consumer_follows_a_daemon_that_was_killed(start):
    consumer, kvd = documented(), start()
    store(kvd, 0, 20)
    view = consumer.View()
    compare(consumer, kvd, view)
    life = view.life
    kvd.kill()
    kvd.start()
    store(kvd, 20, 5)
    view.next = 0  # What it expects is of another life; the first answer tells.
    assert consumer.replay(view, kvd.addresses()["replay"])
    assert view.life > life
    compare(consumer, kvd, view)


def test_vllms_own_decoder_reads_every_message(start):
    from msgspec import msgpack
    from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch

    kvd = start()
    churn(kvd)
    wait_until_quiet(kvd)
    time.sleep(2.5)  # A beat.
    decoder, kinds, beats = msgpack.Decoder(KVEventBatch), set(), 0
    with zmq.Context.instance().socket(zmq.DEALER) as dealer:
        dealer.connect(kvd.addresses()["replay"])
        dealer.send_multipart([b"", (0).to_bytes(8, "big")])
        while (answer := dealer.recv_multipart())[2] != b"\xff" * 8:
            batch = decoder.decode(answer[3])
            assert batch.events and batch.data_parallel_rank is None
            kinds |= {(type(event), getattr(event, "medium", None)) for event in batch.events}
            beats += [event.block_hashes for event in batch.events if isinstance(event, BlockRemoved)] == [[]]
    assert kinds == {
        (AllBlocksCleared, None),
        *((kind, medium) for kind in (BlockStored, BlockRemoved) for medium in ("CPU", "STORAGE")),
    }
    assert beats > 0
