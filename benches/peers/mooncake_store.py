"""Mooncake's store: its segment in the client's process, the same over TCP, in a process of its own, and with an SSD.

Every shape has a master process that holds the metadata. Values go straight from the registered pages into the segment
and back (`batch_put_from`, `batch_get_into`), which its documentation calls zero copy.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from store import CannotRun, Job, Store, Threads, drop_from_page_cache, free_port, wait_until

SEGMENT_OF_VALUES = 2.5
"""Bytes of the segment, in batches."""
OWN_BUFFER_BYTES = 64 << 20
POOL_SLACK_BYTES = 64 << 20
START_SECONDS = 60


class Mooncake(Store):
    """The segment is memory of this process; values are copied with `memcpy` (`MC_STORE_MEMCPY`, on by default)."""

    environment: ClassVar[dict[str, str]] = {}

    def __init__(self, job: Job):
        super().__init__(job)
        os.environ.update(self.environment, GLOG_minloglevel="2")
        try:
            import mooncake.store
        except ImportError as error:
            raise CannotRun(str(error)) from error
        self._module = mooncake.store
        self._store = mooncake.store.MooncakeDistributedStore()
        self._log = job.folder / "mooncake.log"
        self._master = f"127.0.0.1:{free_port()}"

    @property
    def _segment_bytes(self) -> int:
        return int(self.job.total_bytes * SEGMENT_OF_VALUES)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name(program)), *arguments]
        with open(self._log, "ab") as log:
            self.servers.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))

    def _start_master(self, *arguments: str) -> None:
        host, port = self._master.split(":")
        metrics = ("--metrics_host", host, "--metrics_port", str(free_port()))
        self._run("mooncake_master", "--rpc_address", host, "--rpc_port", port, *metrics, *arguments)

    def open(self) -> None:
        self._start_master()
        self._retry("setup", self._setup)
        self._register()

    def _setup(self) -> bool:
        result = self._store.setup(
            "127.0.0.1", "P2PHANDSHAKE", self._segment_bytes, OWN_BUFFER_BYTES, "tcp", "", self._master
        )
        return result == 0

    def _retry(self, what: str, attempt) -> None:
        def running_and_done() -> bool:
            if any(process.poll() is not None for process in self.servers):
                raise CannotRun(f"{what}: {self._log.read_text(errors='replace')[-500:]}")
            return attempt()

        wait_until(what, running_and_done, START_SECONDS, pause=0.5)

    def _register(self) -> None:
        job = self.job
        if self._store.register_buffer(job.address(0), job.total_bytes) != 0:
            raise CannotRun("register_buffer refused the pages")
        self._addresses = [job.address(index) for index in range(job.count)]
        self._sizes = [job.value_bytes] * job.count
        self._threads = Threads()

    def _keys(self, batch: str) -> list[str]:
        return [name.hex() for name in self.job.names(batch)]

    def put(self, batch: str, threads: int) -> None:
        keys = self._keys(batch)

        def work(start: int, stop: int) -> None:
            results = self._store.batch_put_from(keys[start:stop], self._addresses[start:stop], self._sizes[start:stop])
            if any(results):
                raise RuntimeError(f"batch_put_from: {sorted(set(results))}")

        self._threads.split(self.job.count, threads, work)

    def get(self, batch: str, threads: int) -> None:
        keys = self._keys(batch)

        def work(start: int, stop: int) -> None:
            results = self._store.batch_get_into(keys[start:stop], self._addresses[start:stop], self._sizes[start:stop])
            if set(results) != {self.job.value_bytes}:
                raise RuntimeError(f"batch_get_into: {sorted(set(results))[:3]}")

        self._threads.split(self.job.count, threads, work)

    def forget(self, batch: str) -> None:
        self._store.batch_remove(self._keys(batch), True)

    def close(self) -> None:
        self._threads.close()
        self._store.close()


class MooncakeChecked(Mooncake):
    """The same with its object checksums, which are off by default."""

    environment: ClassVar[dict[str, str]] = {"MOONCAKE_STORE_CHECKSUM": "1"}
    verifies = "a checksum of every value, taken at put, checked at get"


class MooncakeTcp(Mooncake):
    """The same, each value through the loopback socket, as between two hosts."""

    environment: ClassVar[dict[str, str]] = {"MC_STORE_MEMCPY": "0"}


class MooncakeClient(Mooncake):
    """`mooncake_client` owns the segment and does the copying; the pages are memory shared with it."""

    process = "mooncake_client's"

    def pages(self, bytes_wanted: int) -> np.ndarray:
        self._start_master()
        host, port = "127.0.0.1", free_port()
        own = f"{self._segment_bytes} B"
        self._run(
            "mooncake_client", "--host", host, "--port", str(port), "--master_server_address", self._master,
            "--metadata_server", "P2PHANDSHAKE", "--protocol", "tcp", "--global_segment_size", own, "--threads", "2",
        )  # fmt: skip
        pool = bytes_wanted + POOL_SLACK_BYTES
        time.sleep(1)
        self._retry("setup_dummy", lambda: self._store.setup_dummy(pool, OWN_BUFFER_BYTES, f"{host}:{port}") == 0)
        address = self._store.alloc_from_mem_pool(bytes_wanted)
        if not address:
            raise CannotRun("alloc_from_mem_pool gave nothing")
        return np.ctypeslib.as_array((ctypes.c_uint8 * bytes_wanted).from_address(address))

    def open(self) -> None:
        self._register()


class MooncakeSsd(Mooncake):
    """The in-process shape with SSD offload: values also go to files, and are read from there once they left memory."""

    process = "the client's"

    def open(self) -> None:
        folder = self.job.folder / "ssd"
        folder.mkdir()
        os.environ.update(
            MOONCAKE_OFFLOAD_HEARTBEAT_INTERVAL_SECONDS="1",
            MOONCAKE_OFFLOAD_USE_URING="1",
            MOONCAKE_OFFLOAD_FILE_STORAGE_PATH=str(folder),
        )
        self._folder = folder
        self._start_master("--enable_offload=true", "--default_kv_lease_ttl", "200")
        self._retry("setup", self._setup)
        self._register()

    def _setup(self) -> bool:
        result = self._store.setup(
            "127.0.0.1", "P2PHANDSHAKE", self._segment_bytes, OWN_BUFFER_BYTES, "tcp", "", self._master,
            None, True, str(self._folder),
        )  # fmt: skip
        return result == 0

    def _with_replica(self, batch: str, kind: str) -> list[str]:
        """The values that have a replica of this kind."""
        descriptors = self._store.batch_get_replica_desc(self._keys(batch))
        has = f"is_{kind}_replica"
        return [key for key, found in descriptors.items() if any(getattr(replica, has)() for replica in found)]

    def put(self, batch: str, threads: int) -> None:
        super().put(batch, threads)
        count = self.job.count
        wait_until("values on the SSD", lambda: len(self._with_replica(batch, "local_disk")) == count, pause=0.05)

    def to_disk(self, batch: str) -> None:
        """Drops the replicas in memory, once nothing holds a lease on them."""

        def only_on_disk() -> bool:
            in_memory = self._with_replica(batch, "memory")
            if in_memory:
                self._store.batch_replica_clear(in_memory, self._store.get_hostname())
            return not in_memory

        wait_until("replicas out of memory", only_on_disk, pause=0.3)
        for path in self._folder.rglob("*"):
            if path.is_file():
                drop_from_page_cache(path)
