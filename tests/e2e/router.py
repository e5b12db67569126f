"""Runs a real kvd-router for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from daemon import BINARY as KVD

BINARY = Path(os.environ.get("KVD_ROUTER_BIN", KVD.parent / "kvd-router"))
START_SECONDS = 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Router:
    """One router that may be started and killed over and over with the same configuration."""

    def __init__(self, home: Path, members: str):
        self.http = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._log = home / "kvd-router.log"
        self._config = home / "kvd-router.toml"
        self._config.write_text(
            f'[http]\nlisten = "127.0.0.1:{self.http}"\n[grpc]\nlisten = "127.0.0.1:{free_port()}"\n{members}'
        )

    def start(self) -> None:
        """Returns once it answers."""
        with open(self._log, "ab") as log:
            command = [str(BINARY), "serve", "--config", str(self._config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.get("/health")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"kvd-router did not start: {self._log.read_text()[-2000:]}") from None
                time.sleep(0.02)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
            return answer.read()

    def query(self, model: str, tokens: list[int], **more: Any) -> dict[str, Any]:
        """Tokens of the prompt's prefix that each instance has, by medium; `{}` while nothing is known."""
        body = json.dumps(dict(token_ids=tokens, model_name=model, **more)).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}/query", body, headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def kill(self) -> None:
        """As a crash would: no warning."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    def log(self) -> str:
        return self._log.read_text()
