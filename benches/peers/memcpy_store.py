"""The physical limit: the C library's copy between two pieces of this process's memory. Nothing is kept or checked."""

from __future__ import annotations

import ctypes

import numpy as np

from store import Store, Threads, empty_pages


class Memcpy(Store):
    def open(self) -> None:
        self._threads = Threads()
        self._other = empty_pages(self.job.count, self.job.value_bytes)
        self._other[:] = 1

    def put(self, batch: str, threads: int) -> None:
        self._copy(self._other, self.job.pages, threads)

    def get(self, batch: str, threads: int) -> None:
        self._copy(self.job.pages, self._other, threads)

    def _copy(self, to: np.ndarray, source: np.ndarray, threads: int) -> None:
        job, to_base, from_base = self.job, to.ctypes.data, source.ctypes.data

        def work(start: int, stop: int) -> None:
            for offset in range(start * job.value_bytes, stop * job.value_bytes, job.value_bytes):
                ctypes.memmove(to_base + offset, from_base + offset, job.value_bytes)

        self._threads.split(job.count, threads, work)

    def forget(self, batch: str) -> None:
        pass

    def close(self) -> None:
        self._threads.close()
        del self._other
