"""One store in a process of its own, driven by lines of JSON on its input. Started by `main.py`.

    {"do": "open", "store", "value_bytes", "count", "disk", "folder"}    {"do": "put" | "get", "batch", "threads"}
    {"do": "close"}                                                      {"do": "memory"}

Each is answered by one line. The values are the same in every client: random bytes from one seed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from measure import family, resident_mib, timed
from store import CannotRun, Job, Store, empty_pages

SEED = 20_260_101
STORES = {
    "memcpy": ("memcpy_store", "Memcpy"),
    "kvd": ("kvd_store", "Kvd"),
    "mooncake": ("mooncake_store", "Mooncake"),
    "mooncake-checked": ("mooncake_store", "MooncakeChecked"),
    "mooncake-tcp": ("mooncake_store", "MooncakeTcp"),
    "mooncake-client": ("mooncake_store", "MooncakeClient"),
    "mooncake-ssd": ("mooncake_store", "MooncakeSsd"),
    "lmcache": ("lmcache_store", "LmcacheCpu"),
    "lmcache-server": ("lmcache_server", "LmcacheServer"),
    "lmcache-disk": ("lmcache_store", "LmcacheDisk"),
    "lmcache-disk-buffered": ("lmcache_store", "LmcacheDiskBuffered"),
}


class Client:
    """At most one store is open."""

    def __init__(self) -> None:
        self._store: Store | None = None

    def open(self, order: dict[str, Any]) -> dict[str, Any]:
        count, value_bytes = order["count"], order["value_bytes"]
        module, name = STORES[order["store"]]
        self._values = np.random.default_rng(SEED).integers(0, 256, (count, value_bytes), dtype=np.uint8)
        folder = Path(order["folder"])
        folder.mkdir(parents=True)
        try:
            kind = getattr(importlib.import_module(module), name)
            pages = empty_pages(count, value_bytes)
            store = self._store = kind(Job(pages, folder, order["disk"]))
            theirs = store.pages(pages.nbytes)
            if theirs is not None:
                store.job = Job(theirs.reshape(pages.shape), folder, order["disk"])
            self._pages = store.job.pages
            self._pages[:] = self._values
            store.open()
        except (CannotRun, ImportError) as error:
            self._end_servers()
            return dict(not_run=str(error))
        return dict(verifies=store.verifies, process=store.process)

    def put(self, order: dict[str, Any]) -> dict[str, Any]:
        self._pages[:] = self._values
        return timed(lambda: self._store.put(order["batch"], order["threads"]), self._pages.nbytes)

    def get(self, order: dict[str, Any]) -> dict[str, Any]:
        """Also whether every byte came back, and then forgets the batch."""
        batch = order["batch"]
        self._pages[:] = 0
        if self._store.job.disk:
            self._store.to_disk(batch)
        took = timed(lambda: self._store.get(batch, order["threads"]), self._pages.nbytes)
        equal = bool(np.array_equal(self._pages, self._values))
        self._store.forget(batch)
        return dict(took, equal=equal)

    def memory(self, order: dict[str, Any]) -> dict[str, Any]:
        """Without the reference copy of the values, which only the bench needs."""
        return dict(mib=resident_mib(family(os.getpid())) - self._values.nbytes / (1 << 20))

    def close(self, order: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._store is not None:
                self._store.close()
        finally:
            self._end_servers()
        return {}

    def _end_servers(self) -> None:
        if self._store is not None:
            self._store.end_servers()
        self._store = None


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stores print
    client = Client()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(client, order["do"])(order)
        except Exception as error:
            traceback.print_exc()
            answer = dict(failed=f"{type(error).__name__}: {error}")
        print(json.dumps(answer), file=answers, flush=True)
    client.close({})  # whoever started this process is gone; its servers must not outlive it


if __name__ == "__main__":
    main()
