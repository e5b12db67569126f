"""kvd as the scheduler sees it: present or not, and never in the way.

Every call answers at once or within the client's timeout. After a call that failed although kvd seemed connected,
nothing is asked for a second, so that a struggling daemon costs an engine at most one timeout per second. Coming and
going is logged once per change.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from vllm.logger import init_logger

from kvd_connectors import _native

logger = init_logger("vllm.kvd")

_PAUSE_SECONDS = 1.0
_KNOWN_BLOCKS = 1 << 17
_MISS = b"\0"
CPU, NVME = 2, 3
"""State bytes of a lookup. 0 is a miss, 1 is being stored right now."""


class Session:
    """A native client with a circuit breaker and a memory of what is stored."""

    def __init__(self, client: _native.Client | None):
        self._client: Any = client
        self._incarnation: int | None = None
        self._paused_until = 0.0
        self._known: OrderedDict[tuple[int, bytes], None] = OrderedDict()

    def usable(self) -> bool:
        """True when it makes sense to ask now. Notices and logs when kvd came, went or restarted."""
        if self._client is None:
            return False
        incarnation = self._client.incarnation if self._client.connected else 0
        if incarnation != self._incarnation:
            self._changed(incarnation)
        return incarnation != 0 and time.monotonic() >= self._paused_until

    @property
    def incarnation(self) -> int:
        """Which life of the daemon this is; 0 when it is away."""
        return self._client.incarnation if self._client is not None else 0

    @property
    def socket(self) -> str:
        """Where the daemon listens."""
        return self._client.socket if self._client is not None else ""

    def lookup(self, layout: int, hashes: bytes, until_miss: bool) -> bytes | None:
        """A state byte for each block, or None when kvd does not answer. `until_miss` leaves out what follows a miss.

        What was not found is not known to be stored any more: at worst kvd is offered a block that it has.
        """
        if not hashes:
            return b""
        states = self._answer(self._client.lookup(layout, hashes, until_miss))
        if states is not None:
            for index in range(len(hashes) // 16):
                if states[index : index + 1] in (b"", _MISS):
                    self.forget(layout, hashes[index * 16 : index * 16 + 16])
        return states

    def prepare_load(self, layout: int, hashes: bytes, deadline_ms: int) -> Any | None:
        """A native `Load`, or None."""
        return self._answer(self._client.prepare_load(layout, hashes, deadline_ms))

    def prepare_store(self, layout: int, chain: Any, blocks: list[int]) -> Any | None:
        """A native `Store`, or None."""
        return self._answer(self._client.prepare_store(layout, chain, blocks))

    def knows(self, layout: int, name: bytes) -> bool:
        """True when the block was seen stored in this life of the daemon and not seen missing since."""
        return (layout, name) in self._known

    def learn(self, layout: int, name: bytes) -> None:
        """Remembers that a block is stored. The oldest memories go first: they cost one question to kvd."""
        self._known[layout, name] = None
        self._known.move_to_end((layout, name))
        if len(self._known) > _KNOWN_BLOCKS:
            self._known.popitem(last=False)

    def forget(self, layout: int, name: bytes) -> None:
        """The block turned out not to be stored."""
        self._known.pop((layout, name), None)

    def forget_all(self) -> None:
        """Nothing is known to be stored any more."""
        self._known.clear()

    def close(self) -> None:
        """Ends the session; kvd takes back every lease."""
        if self._client is not None:
            self._client.close()

    def _answer(self, answer: Any | None) -> Any | None:
        if answer is None:
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
        return answer

    def _changed(self, incarnation: int) -> None:
        if incarnation:
            logger.info("kvd is connected at %s (incarnation %x)", self.socket, incarnation)
        else:
            logger.warning("kvd is unavailable, the engine goes on without it: %s", self._client.last_error)
        self._incarnation = incarnation
        self._known.clear()
