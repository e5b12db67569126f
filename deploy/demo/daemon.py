"""kvd as the demo runs it: small, with its own directory, and free ports."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from exposition import Exposition
from process import Process

_QUIET_SECONDS = 60


class Kvd:
    """One daemon that may be killed and started over in the same directory."""

    def __init__(self, binary: str, home: Path, socket_path: Path, arena: str = "1GiB", nvme: str = "2GiB"):
        self.socket = socket_path
        self.process = Process("kvd", home / "kvd.log")
        self._data = home / "kvd"
        self._data.mkdir()
        self._config = home / "kvd.toml"
        self._command = [binary, "serve", "--config", str(self._config)]
        self._config.write_text(
            f'[arena]\nbytes = "{arena}"\n\n[nvme]\npath = "{self._data}"\nbytes = "{nvme}"\n\n'
            f'[engine]\nsocket = "{socket_path}"\n\n'
            '[admin]\nlisten = "127.0.0.1:0"\n\n[metrics]\nlisten = "127.0.0.1:0"\n\n'
            '[events]\nendpoint = "tcp://127.0.0.1:0"\nreplay_endpoint = "tcp://127.0.0.1:0"\n'
        )

    def start(self) -> float:
        """Returns the seconds until engines can connect."""
        return self.process.start(self._command, self._answers, seconds=60)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(os.fspath(self.socket)) == 0

    def metrics(self) -> Exposition:
        addresses = json.loads((self._data / "kvd.addresses.json").read_text())
        return Exposition.fetch(addresses["metrics"])

    def wait_until_quiet(self) -> None:
        """Returns once every stored block is on NVMe too and nothing moves, seen twice in a row."""
        deadline, before = time.monotonic() + _QUIET_SECONDS, None
        while time.monotonic() < deadline:
            now = self.metrics()
            moving = now.sum("kvd_open_leases") + now.sum("kvd_open_transfers")
            stored, written = now.sum("kvd_tier_blocks", tier="cpu"), now.sum("kvd_tier_blocks", tier="nvme")
            if not moving and written >= stored and before == stored:
                return
            before = stored
            time.sleep(0.5)
        raise self.process.failure(f"was still writing after {_QUIET_SECONDS} s")
