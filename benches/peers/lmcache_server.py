"""LMCache's multiprocess mode: `lmcache server`, and a worker that copies into memory shared with it.

The worker is driven as `lmcache bench server` does it, with its classes: register pages, look up, store, retrieve. One
chunk is one value; block 0 means "absent" to LMCache, so the pages have one more block in front. One client thread:
its context copies one request after the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from store import CannotRun, Store, empty_pages, free_port, wait_until

TOKENS = 16
"""Tokens of a block, which is a chunk."""
POOL_OF_VALUES = 4
START_SECONDS = 120


class LmcacheServer(Store):
    process = "lmcache server's"

    def pages(self, bytes_wanted: int) -> np.ndarray:
        """One block in front of the pages stays unused."""
        self._whole = empty_pages(self.job.count + 1, self.job.value_bytes)
        self._whole[0] = 0
        return self._whole[1:]

    def open(self) -> None:
        os.environ.update(LMCACHE_TRACK_USAGE="false", LMCACHE_LOG_LEVEL="WARNING", LMCACHE_DISABLE_BANNER="1")
        port, http = free_port(), free_port()
        self._start(port, http)
        try:
            import torch
            from lmcache.cli.commands.bench.server_bench import helpers
            from lmcache.cli.commands.bench.server_bench.client import ServerBenchClient
            from lmcache.cli.commands.bench.server_bench.config import BenchConfig
        except ImportError as error:
            raise CannotRun(str(error)) from error
        torch.set_num_threads(1)
        job, hidden = self.job, self.job.value_bytes // TOKENS // 2
        tensor = torch.from_numpy(self._whole.reshape(-1)).view(torch.float16).view(job.count + 1, TOKENS, hidden)
        helpers._allocate_kv_cache = lambda **_: [tensor]
        config = BenchConfig(
            rpc_url=f"tcp://127.0.0.1:{port}", http_url=f"http://127.0.0.1:{http}", mode="cpu",
            transfer_mode="engine_driven", tp_size=1, use_mla=False, num_tokens=job.count * TOKENS,
            kvcache_shape_spec=f"(1,{job.count + 1},{TOKENS},1,{hidden}):float16:1",
            num_blocks=job.count + 1, block_size=TOKENS,
        )  # fmt: skip
        self._client = ServerBenchClient(config, log=lambda text: print(text, file=sys.stderr))
        self._client.start()
        self._sequences: dict[str, int] = {}

    def _start(self, port: int, http: int) -> None:
        gib = self.job.total_bytes * POOL_OF_VALUES / (1 << 30)
        command = [
            str(Path(sys.executable).with_name("lmcache")), "server", "--host", "127.0.0.1", "--port", str(port),
            "--http-host", "127.0.0.1", "--http-port", str(http), "--l1-size-gb", f"{gib:.3f}", "--no-l1-use-lazy",
            "--eviction-policy", "LRU", "--supported-transfer-mode", "engine_driven",
            "--shm-name", f"kvd_bench_{os.getpid()}", "--max-workers", "1", "--chunk-size", str(TOKENS),
            "--disable-observability",
        ]  # fmt: skip
        with open(self.job.folder / "lmcache-server.log", "ab") as log:
            server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.servers.append(server)

        def answers() -> bool:
            import socket

            if server.poll() is not None:
                raise CannotRun((self.job.folder / "lmcache-server.log").read_text(errors="replace")[-800:])
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until("lmcache server", answers, START_SECONDS, pause=0.2)

    def _request(self, batch: str, kind: str) -> Any:
        sequence = self._sequences.setdefault(batch, len(self._sequences) + 1)
        request = self._client.create_request(sequence, f"{batch}-{kind}", kind)
        return replace(request, block_offset=1)

    def put(self, batch: str, threads: int) -> None:
        request = self._request(batch, "cold")
        found = self._client.lookup(request)
        if not found.is_full_miss:
            raise RuntimeError(f"lookup of new values: {found}")
        stored = self._client.store(request, 0, request.num_full_tokens)
        self._client.end_session(request)
        if stored is None or not stored.succeeded:
            raise RuntimeError(f"store: {stored}")

    def get(self, batch: str, threads: int) -> None:
        request = self._request(batch, "warm")
        found = self._client.lookup(request)
        if not found.is_full_hit:
            raise RuntimeError(f"lookup of stored values: {found}")
        retrieved = self._client.retrieve(request, 0, request.num_full_tokens)
        self._client.end_session(request)
        if retrieved is None or not retrieved.succeeded:
            raise RuntimeError(f"retrieve: {retrieved}")

    def forget(self, batch: str) -> None:
        self._client._req_client.clear(True).result(timeout=30)

    def close(self) -> None:
        self._client.close()
