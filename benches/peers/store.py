"""What the bench asks of every store, and the memory it moves values from and into.

A store is driven in a client process of its own (`client.py`). The values lie in that process's pages, as an engine's
KV cache would: one block after the other. `put` takes all of them, `get` brings all of them back to where they were.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MOST_THREADS = 2
PAGE_BYTES = 4096


class CannotRun(Exception):
    """This store cannot be driven here; the text says why."""


@dataclass(frozen=True)
class Job:
    """What to move. `pages`: `[count, value_bytes]` of uint8, owned by the client."""

    pages: np.ndarray
    folder: Path
    disk: bool

    @property
    def count(self) -> int:
        return self.pages.shape[0]

    @property
    def value_bytes(self) -> int:
        return self.pages.shape[1]

    @property
    def total_bytes(self) -> int:
        return self.pages.nbytes

    def address(self, index: int) -> int:
        """Where value `index` begins in memory."""
        return self.pages.ctypes.data + index * self.value_bytes

    def names(self, batch: str) -> list[bytes]:
        """16 bytes for each value, different in every batch."""
        seed = hashlib.sha256(batch.encode()).digest()[:12]
        return [seed + index.to_bytes(4, "little") for index in range(self.count)]


class Store(ABC):
    """One store. `open` comes first; a batch is put once, got any number of times, and forgotten."""

    verifies = "nothing"
    """What is checked when values are stored and loaded."""
    process = "the client's"
    """The process that owns the stored values."""

    def __init__(self, job: Job):
        self.job = job
        self.servers: list[subprocess.Popen[bytes]] = []
        """Processes it started, in that order; ended in the other order, whatever became of the store."""

    def pages(self, bytes_wanted: int) -> np.ndarray | None:
        """Memory the client must use for its pages; None when any will do."""
        return None

    @abstractmethod
    def open(self) -> None: ...

    @abstractmethod
    def put(self, batch: str, threads: int) -> None:
        """Returns when every value can be read; in a disk setting, when every value is on the disk."""

    def to_disk(self, batch: str) -> None:  # noqa: B027
        """Makes sure, outside of what is measured, that the next `get` cannot be answered from memory."""

    @abstractmethod
    def get(self, batch: str, threads: int) -> None:
        """Raises when a value is not there."""

    @abstractmethod
    def forget(self, batch: str) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def end_servers(self) -> None:
        for server in reversed(self.servers):
            if server.poll() is None:
                server.terminate()
                server.wait(30)


def empty_pages(count: int, value_bytes: int) -> np.ndarray:
    """`[count, value_bytes]` of uint8 that begin on a page, as an engine's tensors do, or better."""
    whole = np.empty(count * value_bytes + PAGE_BYTES, dtype=np.uint8)
    begin = -whole.ctypes.data % PAGE_BYTES
    return whole[begin : begin + count * value_bytes].reshape(count, value_bytes)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what: str, done: Callable[[], bool], seconds: float = 60, pause: float = 0.005) -> None:
    """Asks until it is so; `CannotRun` names what never came."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise CannotRun(f"{what}: not within {seconds:g} s")
        time.sleep(pause)


def drop_from_page_cache(path: Path) -> None:
    """The next read of the file comes from the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


class Threads:
    """Splits a batch over client threads, for stores that do not do it themselves."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MOST_THREADS)

    def split(self, count: int, threads: int, work: Callable[[int, int], None]) -> None:
        """`work(start, stop)` for each part; on the calling thread when there is one part."""
        if threads == 1:
            return work(0, count)
        edges = [count * part // threads for part in range(threads + 1)]
        for _ in self._pool.map(work, edges, edges[1:]):
            pass

    def close(self) -> None:
        self._pool.shutdown()
