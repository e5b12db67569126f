"""A child process with a log file: started in a session of its own, so that ending it ends its children too."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_POLL_SECONDS = 0.2


class Failed(Exception):
    """Something did not work; the message says what, with the end of the log."""


class Process:
    """One program at a time; starting it again appends to the same log."""

    def __init__(self, name: str, log: Path):
        self.name = name
        self.log = log
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], is_ready: Callable[[], bool], seconds: float, **environment: str) -> float:
        """Returns the seconds until `is_ready`; a process that ends or takes longer is an error."""
        begin = time.monotonic()
        with open(self.log, "ab") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )
        while not is_ready():
            if self._child.poll() is not None:
                raise self.failure(f"ended with status {self._child.returncode} before it was ready")
            if time.monotonic() > begin + seconds:
                raise self.failure(f"was not ready after {seconds:.0f} s")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - begin

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def stop(self, seconds: float = 60) -> None:
        """Asks it to end, and makes it end when it does not."""
        self._end(signal.SIGTERM, seconds)

    def kill(self) -> None:
        """Ends it as a crash would: no warning, nothing written, nothing closed."""
        self._end(signal.SIGKILL, 10)

    def _end(self, how: signal.Signals, seconds: float) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        try:
            # Only the program itself is asked; it ends its own children. What is left after that is killed.
            child.send_signal(how)
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait(10)

    def failure(self, what: str) -> Failed:
        """An error about this process, with the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        tail = "\n".join(f"    {line}" for line in lines[-25:])
        return Failed(f"{self.name} {what}; the end of {self.log}:\n{tail}")
