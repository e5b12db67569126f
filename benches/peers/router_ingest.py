"""kvd-router beside NVIDIA Dynamo's standalone indexer: the same events over ZeroMQ, the same questions over HTTP.

    python router_ingest.py [--runs N] [--blocks N]      # writes $KVD_BENCH_DIR/router_ingest.json

A publisher sends vLLM's messages (maps, integer hashes, 128 blocks of 16 tokens each) at a steady pace to one process at a time.
CPU is that of the process from the first message until the last sequence is found by `POST /query`, so a queue that is still to be
worked off counts. Both must then know every sequence asked about. Then the time is taken until a new process answers as the full one did: kvd-router is
stopped and started again with its state file and the publisher's replay; Dynamo's indexer, which keeps nothing, is started beside the
full one and told to ask it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import zmq
from main import CACHE, commit, describe_machine
from measure import cpu_seconds, family, resident_mib

BLOCK_TOKENS = 16
MESSAGE_BLOCKS = 128
MESSAGES_PER_SECOND = 2_000
MODEL = "m"
HERE = Path(__file__).resolve().parent
ROUTER = os.environ.get("KVD_ROUTER_BIN") or str(CACHE / "target/release/kvd-router")
PEER = CACHE / "peers/dynamo/bin/python"
DEADLINE_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Traffic:
    """Messages made before anything is measured, and the prompts that ask for what they say."""

    def __init__(self, blocks: int, seed: int):
        draw = random.Random(seed)
        self.messages: list[bytes] = []
        self.prompts: list[list[int]] = []
        for _ in range(blocks // MESSAGE_BLOCKS):
            tokens = [draw.randrange(1 << 17) for _ in range(MESSAGE_BLOCKS * BLOCK_TOKENS)]
            hashes = [draw.getrandbits(64) for _ in range(MESSAGE_BLOCKS)]
            stored = dict(
                type="BlockStored",
                block_hashes=hashes,
                parent_block_hash=None,
                token_ids=tokens,
                block_size=BLOCK_TOKENS,
                lora_id=None,
                medium="GPU",
                lora_name=None,
                group_idx=0,
            )
            self.messages.append(msgspec.msgpack.encode([time.time(), [stored], 0]))
            if not self.prompts or draw.random() < 0.01:
                self.prompts.append(tokens)
        self.prompts.append(tokens)


class Publisher:
    """What an engine's publisher is to a subscriber: PUB and replay."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._kept: list[bytes] = []
        replay = self._context.socket(zmq.ROUTER)
        self.replay_port = replay.bind_to_random_port("tcp://127.0.0.1")
        threading.Thread(target=self._answer, args=(replay,), daemon=True).start()
        self._events = self._context.socket(zmq.XPUB)
        self._events.set(zmq.SNDHWM, 0)
        self.port = self._events.bind_to_random_port("tcp://127.0.0.1")
        self._number = 0

    def wait_for_subscriber(self) -> None:
        if not self._events.poll(DEADLINE_SECONDS * 1000):
            raise RuntimeError("nobody subscribed")
        self._events.recv()

    def send(self, payload: bytes) -> None:
        self._events.send_multipart([b"", struct.pack(">Q", self._number), payload])
        self._kept.append(payload)
        self._number += 1

    def _answer(self, socket: zmq.Socket[bytes]) -> None:
        try:
            while True:
                asker, _, first = socket.recv_multipart()
                for number in range(struct.unpack(">Q", first)[0], len(self._kept)):
                    socket.send_multipart([asker, b"", b"", struct.pack(">Q", number), self._kept[number]])
                socket.send_multipart([asker, b"", b"", b"\xff" * 8, b""])
        except zmq.ContextTerminated:
            socket.close(0)

    def close(self) -> None:
        self._events.close(0)
        self._context.term()


class Contender:
    """A process under test, and how it is asked."""

    def __init__(self, name: str, command: list[str], port: int):
        self.name, self.port = name, port
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def matched_tokens(self, prompt: list[int]) -> int:
        """Tokens of the prompt's longest prefix that any worker has; 0 while it cannot be asked."""
        body = json.dumps(dict(token_ids=prompt, model_name=MODEL)).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/query", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                instances = json.load(answer)["instances"].values()
        except (OSError, urllib.error.HTTPError):
            return 0
        return max((instance["longest_matched"] for instance in instances), default=0)

    def wait_until_known(self, prompt: list[int]) -> None:
        start = time.monotonic()
        while self.matched_tokens(prompt) < len(prompt):
            if time.monotonic() - start > DEADLINE_SECONDS or self.process.poll() is not None:
                self._log.seek(0)
                raise RuntimeError(f"{self.name} does not know the prompt:\n{self._log.read().decode()[-2000:]}")
            time.sleep(0.02)

    def cpu_seconds(self) -> float:
        return cpu_seconds(family(self.process.pid))

    def resident_mib(self) -> float:
        return resident_mib(family(self.process.pid))

    def close(self) -> None:
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._log.close()


@contextmanager
def ours(publisher: Publisher, folder: Path, first: Contender | None = None) -> Iterator[Contender]:
    if first is not None:
        first.close()
    port = free_port()
    config = folder / "kvd-router.toml"
    config.write_text(router_toml(publisher, port, free_port(), folder / "state"))
    contender = Contender("kvd-router", [ROUTER, "serve", "--config", str(config)], port)
    try:
        yield contender
    finally:
        contender.close()


def router_toml(publisher: Publisher, http: int, grpc: int, state: Path) -> str:
    return f"""
[http]
listen = "127.0.0.1:{http}"
[grpc]
listen = "127.0.0.1:{grpc}"
[state]
path = "{state}"
[[workers]]
name = "1"
model = "{MODEL}"
block_tokens = {BLOCK_TOKENS}
events = "tcp://127.0.0.1:{publisher.port}"
replay = "tcp://127.0.0.1:{publisher.replay_port}"
"""


@contextmanager
def peer(publisher: Publisher, folder: Path, first: Contender | None = None) -> Iterator[Contender]:
    port = free_port()
    command = [str(PEER), "-m", "dynamo.indexer", "--port", str(port), "--block-size", str(BLOCK_TOKENS), "--model-name", MODEL]
    command += ["--workers", f"1=tcp://127.0.0.1:{publisher.port}"]
    if first is not None:
        command += ["--peers", f"http://127.0.0.1:{first.port}"]
    contender = Contender("dynamo.indexer", command, port)
    try:
        yield contender
    finally:
        contender.close()


def run(make: Any, traffic: Traffic) -> dict[str, float]:
    with ExitStack() as stack:
        publisher = Publisher()
        stack.callback(publisher.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contender = stack.enter_context(make(publisher, folder))
        publisher.wait_for_subscriber()
        time.sleep(1.0)
        before = contender.cpu_seconds()
        start = time.monotonic()
        for number, message in enumerate(traffic.messages):
            publisher.send(message)
            ahead = number / MESSAGES_PER_SECOND - (time.monotonic() - start)
            if ahead > 0:
                time.sleep(ahead)
        contender.wait_until_known(traffic.prompts[-1])
        cpu = contender.cpu_seconds() - before
        lost = sum(contender.matched_tokens(prompt) < len(prompt) for prompt in traffic.prompts)
        blocks = len(traffic.messages) * MESSAGE_BLOCKS
        resident = contender.resident_mib()
        start = time.monotonic()
        second = stack.enter_context(make(publisher, folder, contender))
        second.wait_until_known(traffic.prompts[0])
        second.wait_until_known(traffic.prompts[-1])
        restart = time.monotonic() - start
        return dict(
            blocks_per_cpu_s=blocks / cpu,
            bytes_per_block=resident * (1 << 20) / blocks,
            lost_prompts=float(lost),
            restart_s=restart,
            second_mib=second.resident_mib(),
        )


ROWS = [
    ("ingest over ZeroMQ, drained", "blocks/CPU s", "blocks_per_cpu_s", True),
    ("resident memory a block", "B", "bytes_per_block", False),
    ("prompts not fully known afterwards", "", "lost_prompts", None),
    ("a new process until it answers alike", "s", "restart_s", False),
]


def rows(ours_runs: list[dict[str, float]], peer_runs: list[dict[str, float]], blocks: int) -> list[dict[str, Any]]:
    table = []
    for metric, unit, key, higher in ROWS:
        mine, theirs = (median(run[key] for run in runs) for runs in (ours_runs, peer_runs))
        ratio = None if higher is None or not mine or not theirs else (mine / theirs if higher else theirs / mine)
        table.append(dict(metric=f"{blocks:,} blocks: {metric}", unit=unit, ours=mine, reference=theirs, ratio=ratio, runs=len(ours_runs)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    arguments = parser.parse_args()
    subprocess.run([str(HERE / "setup.sh")], check=True)
    ours_runs: list[dict[str, float]] = []
    peer_runs: list[dict[str, float]] = []
    for turn in range(arguments.runs):
        traffic = Traffic(arguments.blocks, turn)
        for make, results in ((ours, ours_runs), (peer, peer_runs))[:: 1 if turn % 2 == 0 else -1]:
            results.append(run(make, traffic))
            print(make.__name__, {key: round(value, 3) for key, value in results[-1].items()}, file=sys.stderr)
    report = dict(machine=describe_machine(), commit=commit(), rows=rows(ours_runs, peer_runs, arguments.blocks))
    for row in report["rows"]:
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(f"{row['metric']:<60} {row['ours']:>14,.2f} {row['reference']:>14,.2f} {row['unit']:<12} {ratio:>6} {row['runs']:>4}")
    path = Path(os.environ.get("KVD_BENCH_DIR", "target/bench")) / "router_ingest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
