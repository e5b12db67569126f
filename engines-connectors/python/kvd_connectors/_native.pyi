"""The native module, built from `engines-connectors/native`. kvd being away is `None`, never an exception."""

from typing import Any

class Chain:
    """Names of one request's blocks of one size. `extras`: start, end and identity of each multimodal item."""

    num_tokens: int
    num_blocks: int
    def __init__(
        self, block_tokens: int, lora: str = "", salt: str = "", extras: list[tuple[int, int, bytes]] = ...
    ) -> None: ...
    def extend(self, tokens: list[int]) -> int:
        """Appends tokens; how many whole blocks have names now."""
    def hashes(self, start: int, stop: int) -> bytes:
        """16 bytes for each block."""

class Load:
    """Blocks that kvd keeps in the arena, or brings there, until `complete`. Also completed when collected."""

    lease: int
    incarnation: int
    settled: bool
    def wait(self, timeout_ms: int) -> bool:
        """True when no block is on its way from NVMe any more."""
    def slots(self) -> list[int]:
        """A slot for each block; -1 on its way, -2 missing."""
    def complete(self, corrupt: list[int] = ...) -> None: ...

class Store:
    """Slots lent for new blocks until `complete`. Blocks not named in it are given up."""

    lease: int
    incarnation: int
    def slots(self) -> list[int]:
        """A slot for each block; -1 stored already, -2 being stored by another engine, -3 no room."""
    def complete(self, filled: list[tuple[int, list[int]]]) -> None:
        """Index in the request and checksum of each rank."""

class Client:
    """The scheduler's side. Connects in the background, and again whenever the connection is lost."""

    connected: bool
    generation: int
    incarnation: int
    last_error: str | None
    socket: str
    def __init__(
        self,
        socket: str | None,
        engine: str,
        software: str,
        layouts: list[dict[str, Any]],
        connect_wait_ms: int = 500,
        timeout_ms: int = 200,
    ) -> None: ...
    def lookup(self, layout: int, hashes: bytes, until_miss: bool = True) -> bytes | None:
        """A byte for each block: 0 miss, 1 being stored, 2 in the arena, 3 on NVMe."""
    def prepare_load(self, layout: int, hashes: bytes, deadline_ms: int = 0) -> Load | None: ...
    def prepare_store(self, layout: int, chain: Chain, blocks: list[int]) -> Store | None: ...
    def prepare_store_named(self, layout: int, hashes: bytes, parents: bytes | None) -> Store | None:
        """For blocks whose tokens are not known here."""
    def touch(self, layout: int, hashes: bytes) -> None: ...
    def pin(self, layout: int, hashes: bytes, ttl_ms: int) -> int: ...
    def close(self) -> None: ...

class LoadJob:
    """A load under way in the background."""

    def wait_layer(self, layer: int) -> None: ...
    def finish(self) -> list[bool]: ...

class Worker:
    """In each process that copies. `layers`: base address, bytes of a page, distance between pages, number of pages."""

    connected: bool
    incarnation: int
    last_error: str | None
    def __init__(
        self, socket: str | None, engine: str, software: str, connect_wait_ms: int = 500, threads: int = 0
    ) -> None: ...
    def register(self, layout: dict[str, Any], rank: int, layers: list[tuple[int, int, int, int]]) -> int: ...
    def store(self, pages: int, incarnation: int, block_ids: list[int], slots: list[int]) -> list[int] | None:
        """A checksum for each block."""
    def load(
        self, pages: int, incarnation: int, block_ids: list[int], slots: list[int], hashes: bytes
    ) -> list[bool] | None:
        """Whether each block's header and checksum were right."""
    def start_load(
        self, pages: int, incarnation: int, block_ids: list[int], slots: list[int], hashes: bytes
    ) -> LoadJob | None: ...

def layout_id(layout: dict[str, Any]) -> str: ...
def version() -> str: ...
def default_socket() -> str: ...
