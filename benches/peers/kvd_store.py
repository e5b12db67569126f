"""kvd: a daemon of its own, driven through the native module the engine connectors use."""

from __future__ import annotations

import os
import shutil
import sys
import urllib.request
from pathlib import Path

from store import MOST_THREADS, CannotRun, Store, free_port, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "engines-connectors" / "python"), str(REPOSITORY / "tests" / "e2e")]

ARENA_OF_VALUES = 1.25
"""Bytes of the arena, in batches: every put evicts most of what was put before, and that is part of what it takes."""
STORAGE_OF_VALUES = 8
EXTENT_BYTES = 64 << 20
ON_STORAGE_ONLY = 3
"""What a lookup says of a block that is on NVMe and not in the arena."""
DEADLINE_MS = 30_000


class Kvd(Store):
    verifies = "CRC-64 of every byte, taken at put, checked at get"
    process = "the daemon's"

    def open(self) -> None:
        try:
            from daemon import Kvd as Daemon
            from kvd_connectors._native import Client, Worker
        except ImportError as error:
            raise CannotRun(f"{error}: run `make wheel`") from error
        job = self.job
        self._home = job.folder / "kvd"
        self._home.mkdir(parents=True)
        self._daemon = Daemon(self._home, arena="0", nvme="0")
        self._configure()
        os.environ.setdefault("KVD_LOG", "warn")
        self._daemon.start()
        self.servers.append(self._daemon.process)
        self._layout = dict(
            model="bench/peers", weights="none", kv_dtype="bfloat16", block_tokens=16, group=0,
            attention="full_attention", geometry="bench", ranks=1, stripe_bytes=job.value_bytes,
        )  # fmt: skip
        socket = self._daemon.socket
        self._client = Client(socket, "bench", "bench", [self._layout], connect_wait_ms=10_000, timeout_ms=10_000)
        self._workers = {
            threads: Worker(socket, "bench", "bench", connect_wait_ms=10_000, threads=threads)
            for threads in range(1, MOST_THREADS + 1)
        }
        layers = [(job.address(0), job.value_bytes, job.value_bytes, job.count)]
        self._pages = {threads: worker.register(self._layout, 0, layers) for threads, worker in self._workers.items()}
        self._blocks = list(range(job.count))
        self._written = 0
        parties = (self._client, *self._workers.values())
        wait_until("connecting to kvd", lambda: all(party.connected for party in parties))

    @property
    def _arena_bytes(self) -> int:
        return int(self.job.total_bytes * ARENA_OF_VALUES) + EXTENT_BYTES

    def _configure(self) -> None:
        """As the tests' daemon, with an arena of the size of a batch, and storage only where asked for."""
        arena = self._arena_bytes
        storage = self.job.total_bytes * STORAGE_OF_VALUES + EXTENT_BYTES
        nvme = f'enabled = {str(self.job.disk).lower()}\npath = "{self._home / "nvme"}"\nbytes = {storage}\n'
        self._metrics = f"127.0.0.1:{free_port()}"
        self._daemon.config.write_text(
            f'[arena]\nbytes = {arena}\nprefault = true\n[nvme]\n{nvme}[engine]\nsocket = "{self._daemon.socket}"\n'
            f'[admin]\nlisten = "127.0.0.1:0"\n[metrics]\nlisten = "{self._metrics}"\n[events]\nenabled = false\n'
        )

    def put(self, batch: str, threads: int) -> None:
        self._store(self.job.names(batch), threads)

    def _store(self, names: list[bytes], threads: int) -> None:
        """The first `len(names)` pages, under these names."""
        worker = self._workers[threads]
        lease = self._client.prepare_store_named(0, b"".join(names), None)
        if lease is None:
            raise RuntimeError(f"kvd did not answer: {self._client.last_error}")
        slots = lease.slots()
        if min(slots) < 0:
            raise RuntimeError(f"kvd gave {sum(slot >= 0 for slot in slots)} slots for {len(slots)} values")
        checksums = worker.store(self._pages[threads], lease.incarnation, self._blocks[: len(names)], slots)
        if checksums is None:
            raise RuntimeError(f"kvd's arena is gone: {worker.last_error}")
        lease.complete([(index, [checksum]) for index, checksum in enumerate(checksums)])
        if self.job.disk:
            self._written += len(names)
            wait_until("values on storage", lambda: self._count_written() >= self._written)

    def to_disk(self, batch: str) -> None:
        """Stores more than an arena of other values, as in a daemon that has run for a while.

        No lookup before that, for it would keep what it finds.
        """
        quarters = 4 * self._arena_bytes // self.job.total_bytes + 2
        for filler in range(quarters):
            self._store(self.job.names(f"{batch}, filler {filler}")[: self.job.count // 4], 1)
        states = self._client.lookup(0, b"".join(self.job.names(batch)), False) or b""
        kept = self.job.count - states.count(ON_STORAGE_ONLY)
        if kept:
            raise RuntimeError(f"kvd keeps {kept} values in the arena")

    def get(self, batch: str, threads: int) -> None:
        worker, hashes = self._workers[threads], b"".join(self.job.names(batch))
        lease = self._client.prepare_load(0, hashes, DEADLINE_MS)
        if lease is None or not lease.wait(DEADLINE_MS):
            raise RuntimeError(f"kvd did not answer: {self._client.last_error}")
        slots = lease.slots()
        if min(slots) < 0:
            raise RuntimeError(f"kvd has {sum(slot >= 0 for slot in slots)} of {len(slots)} values")
        whole = worker.load(self._pages[threads], lease.incarnation, self._blocks, slots, hashes)
        lease.complete()
        if whole is None or not all(whole):
            raise RuntimeError("a value did not arrive whole")

    def _count_written(self) -> float:
        """Values the daemon has written to storage since it started."""
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("kvd_written_total"))

    def forget(self, batch: str) -> None:
        """Nothing to do: the oldest values are evicted by the next put, inside what is measured."""

    def close(self) -> None:
        self._client.close()
        for worker in self._workers.values():
            worker.close()
        self.end_servers()
        shutil.rmtree(self._home, ignore_errors=True)
