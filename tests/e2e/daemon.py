"""Runs a real kvd for tests: its own directory, socket and ports, killed when the test module ends."""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

BINARY = Path(os.environ.get("KVD_BIN", Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release" / "kvd"))
START_SECONDS = 20


class Kvd:
    """One daemon that may be started, stopped and killed over and over in the same directory."""

    def __init__(self, home: Path, arena: str = "256MiB", nvme: str = "512MiB"):
        self.home = home
        self.socket = str(home / "kvd.sock")
        self.process: subprocess.Popen[bytes] | None = None
        self.config = home / "kvd.toml"
        self.config.write_text(
            f'[arena]\nbytes = "{arena}"\n'
            f'[nvme]\npath = "{home / "nvme"}"\nbytes = "{nvme}"\n'
            f'[engine]\nsocket = "{self.socket}"\n'
            '[admin]\nlisten = "127.0.0.1:0"\n[metrics]\nlisten = "127.0.0.1:0"\n'
            '[events]\nendpoint = "tcp://127.0.0.1:0"\nreplay_endpoint = "tcp://127.0.0.1:0"\n'
        )
        (home / "nvme").mkdir(exist_ok=True)

    def start(self) -> None:
        """Returns once engines can connect."""
        command = [str(BINARY), "serve", "--config", str(self.config)]
        with open(self.home / "kvd.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"kvd did not start: {(self.home / 'kvd.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0

    def addresses(self) -> dict[str, str]:
        """Where it listens, by name. Waits until it has written that down: engines can connect a moment earlier."""
        assert self.process is not None
        path, deadline = self.home / "nvme" / "kvd.addresses.json", time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if path.exists() and (found := json.loads(path.read_text() or "{}")).get("pid") == self.process.pid:
                return found
            time.sleep(0.02)
        raise RuntimeError(f"kvd wrote no {path}")

    def control(self, *arguments: str) -> list[str]:
        """The command that runs `kvctl` against it."""
        return [str(BINARY.parent / "kvctl"), "--address", self.addresses()["admin"], *arguments]

    def kill(self) -> None:
        """As a crash would: no warning."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an operator would."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def damage_arena(self, payload: bytes) -> int:
        """Flips a byte of every copy of `payload` in the arena; how many there were."""
        assert self.process is not None
        descriptors = Path(f"/proc/{self.process.pid}/fd")
        arenas = [fd for fd in descriptors.iterdir() if os.readlink(fd).startswith("/memfd:")]
        return sum(damage(fd, payload) for fd in arenas)

    def damage_nvme(self, payload: bytes) -> int:
        """Flips a byte of every copy of `payload` in the data files; how many there were."""
        return sum(damage(path, payload) for path in (self.home / "nvme").iterdir() if path.is_file())


def damage(path: Path, payload: bytes) -> int:
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if size < len(payload):
            return 0
        with mmap.mmap(file.fileno(), size) as memory:
            at, hits = memory.find(payload), 0
            while at >= 0:
                memory[at] ^= 0xFF
                hits += 1
                at = memory.find(payload, at + 1)
            return hits
