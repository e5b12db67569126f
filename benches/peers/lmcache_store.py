"""LMCache's local backends, in the client's process as in an engine's: `LocalCPUBackend` and `LocalDiskBackend`.

What its engine adapter does is done here: take a memory object from the backend's allocator, copy the pages into it,
hand it over; and the other way round. The copy is torch's `copy_`, which was faster here than the C library's.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from store import CannotRun, Store, Threads, drop_from_page_cache

POOL_OF_VALUES = 2.5
"""Bytes of LMCache's memory, in batches."""


class LmcacheCpu(Store):
    """Hot cache in memory."""

    def open(self) -> None:
        os.environ.update(LMCACHE_TRACK_USAGE="false", LMCACHE_LOG_LEVEL="WARNING")
        try:
            import torch
            from lmcache.utils import CacheEngineKey
            from lmcache.v1.config import LMCacheEngineConfig
            from lmcache.v1.memory_management import MemoryFormat
            from lmcache.v1.metadata import LMCacheMetadata
            from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend
        except ImportError as error:
            raise CannotRun(str(error)) from error
        torch.set_num_threads(1)  # client threads are the bench's
        self._torch, self._key, self._format = torch, CacheEngineKey, MemoryFormat.KV_2LTD
        job = self.job
        self._config = LMCacheEngineConfig.from_defaults(
            chunk_size=16, max_local_cpu_size=job.total_bytes * POOL_OF_VALUES / (1 << 30), **self._settings()
        )
        shape = (1, 2, 16, 1, job.value_bytes // 32)
        self._metadata = LMCacheMetadata("bench", 1, 1, 0, 0, torch.uint8, shape)
        self._memory = LocalCPUBackend(self._config, metadata=self._metadata, dst_device="cpu")
        self._pages = torch.from_numpy(job.pages)
        self._shape = torch.Size([job.value_bytes])
        self._threads = Threads()

    def _settings(self) -> dict[str, Any]:
        return dict(local_cpu=True)

    def _keys(self, batch: str) -> list[Any]:
        names = self.job.names(batch)
        return [self._key("bench", 1, 0, int.from_bytes(name, "little"), self._torch.uint8) for name in names]

    def _filled(self, start: int, stop: int) -> list[Any]:
        """Memory objects with the values `start..stop`."""
        uint8 = self._torch.uint8
        objects = self._memory.batched_allocate(self._shape, uint8, stop - start, self._format)
        if objects is None:
            raise RuntimeError("batched_allocate gave nothing")
        for page, held in zip(self._pages[start:stop], objects):
            held.tensor.copy_(page)
        return objects

    def _emptied(self, objects: list[Any], start: int) -> None:
        """Copies memory objects into the pages from `start` on, and gives them back."""
        for page, held in zip(self._pages[start : start + len(objects)], objects):
            if held is None:
                raise RuntimeError("a value is gone")
            page.copy_(held.tensor)
            held.ref_count_down()

    def put(self, batch: str, threads: int) -> None:
        keys = self._keys(batch)

        def work(start: int, stop: int) -> None:
            objects = self._filled(start, stop)
            self._memory.batched_submit_put_task(keys[start:stop], objects)
            for held in objects:
                held.ref_count_down()

        self._threads.split(self.job.count, threads, work)

    def get(self, batch: str, threads: int) -> None:
        keys = self._keys(batch)

        def work(start: int, stop: int) -> None:
            self._emptied(self._memory.batched_get_blocking(keys[start:stop]), start)

        self._threads.split(self.job.count, threads, work)

    def forget(self, batch: str) -> None:
        self._memory.batched_remove(self._keys(batch))

    def close(self) -> None:
        self._threads.close()
        del self._pages
        self._memory.close()


class LmcacheDisk(LmcacheCpu):
    """A file for each value, O_DIRECT, without the hot cache: every read comes from the disk."""

    direct = True

    def _settings(self) -> dict[str, Any]:
        folder = self.job.folder / "lmcache"
        folder.mkdir()
        gib = self.job.total_bytes * 8 / (1 << 30)
        extra = dict(use_odirect=self.direct)
        return dict(local_cpu=False, local_disk=f"{folder}/", max_local_disk_size=gib, extra_config=extra)

    def open(self) -> None:
        super().open()
        from lmcache.v1.storage_backend.local_disk_backend import LocalDiskBackend

        self._loop = asyncio.new_event_loop()
        self._looping = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._looping.start()
        self._disk = LocalDiskBackend(self._config, self._loop, self._memory, dst_device="cpu", metadata=self._metadata)

    def put(self, batch: str, threads: int) -> None:
        keys, left, done = self._keys(batch), self.job.count, threading.Event()
        lock = threading.Lock()

        def written(_key: Any) -> None:
            nonlocal left
            with lock:
                left -= 1
                if not left:
                    done.set()

        def work(start: int, stop: int) -> None:
            objects = self._filled(start, stop)
            self._disk.batched_submit_put_task(keys[start:stop], objects, on_complete_callback=written)
            for held in objects:
                held.ref_count_down()

        self._threads.split(self.job.count, threads, work)
        if not done.wait(60):
            raise RuntimeError(f"{left} values were not written")

    def get(self, batch: str, threads: int) -> None:
        keys = self._keys(batch)

        def work(start: int, stop: int) -> None:
            self._emptied(self._disk.batched_get_blocking(keys[start:stop]), start)

        self._threads.split(self.job.count, threads, work)

    def forget(self, batch: str) -> None:
        for key in self._keys(batch):
            self._disk.remove(key)
            self._disk.current_cache_size -= self.job.value_bytes  # remove() leaves this to its eviction

    def close(self) -> None:
        self._disk.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._looping.join()
        super().close()


class LmcacheDiskBuffered(LmcacheDisk):
    """The default: through the page cache, which is written out and dropped before the values are read."""

    direct = False

    def to_disk(self, batch: str) -> None:
        for path in (self.job.folder / "lmcache").rglob("*.pt"):
            drop_from_page_cache(path)
