"""An in-memory stand-in for `kvd_connectors._native`, with a switch for everything that can go wrong.

It keeps the native module's promises about shapes and order, not its speed. `KVD` is the daemon that all its clients
and workers share; tests turn it off, fill it up, slow it down and damage it.
"""

from __future__ import annotations

import ctypes
import hashlib
from itertools import count
from types import SimpleNamespace

MISS, PENDING, CPU, NVME = range(4)
STAGING, MISSING = -1, -2


class Daemon:
    """What the fake client and workers talk to."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.up, self.incarnation = True, 1
        self.blocks: dict[tuple[int, bytes], int] = {}
        self.slots: dict[int, bytes] = {}
        self.on_nvme: set[tuple[int, bytes]] = set()
        self.staging_rounds = 0
        self.busy = self.silent = False
        self.leases: set[int] = set()
        self.corrupt_reports: list[bytes] = []
        self.questions: list[str] = []
        self.ids = count(1)

    def restart(self):
        self.incarnation += 1
        self.blocks.clear()
        self.leases.clear()
        self.up = True


KVD = Daemon()


def split(hashes):
    return [hashes[i : i + 16] for i in range(0, len(hashes), 16)]


class Chain:
    def __init__(self, block_tokens, lora="", salt="", extras=()):
        self.block_tokens, self._tokens, self._names = block_tokens, [], []
        self._last = repr((block_tokens, lora, salt)).encode()
        self._extras = list(extras)

    def extend(self, tokens):
        self._tokens += tokens
        while (len(self._names) + 1) * self.block_tokens <= len(self._tokens):
            at = len(self._names) * self.block_tokens
            block = self._tokens[at : at + self.block_tokens]
            extras = [e for e in self._extras if e[0] < at + self.block_tokens and e[1] > at]
            self._last = hashlib.blake2b(self._last + repr((block, extras)).encode(), digest_size=16).digest()
            self._names.append(self._last)
        return len(self._names)

    num_tokens = property(lambda self: len(self._tokens))
    num_blocks = property(lambda self: len(self._names))

    def hashes(self, start, stop):
        return b"".join(self._names[start:stop])


class Lease:
    def __init__(self):
        self.lease, self.incarnation = next(KVD.ids), KVD.incarnation
        KVD.leases.add(self.lease)

    def _end(self):
        first = self.lease in KVD.leases
        KVD.leases.discard(self.lease)
        return first


class Load(Lease):
    def __init__(self, layout, hashes):
        super().__init__()
        self._keys = [(layout, name) for name in split(hashes)]
        self._rounds = KVD.staging_rounds if any(key in KVD.on_nvme for key in self._keys) else 0

    @property
    def settled(self):
        return self._rounds <= 0

    def wait(self, timeout_ms):
        self._rounds -= timeout_ms > 0
        return self.settled

    def slots(self):
        return [
            STAGING if not self.settled and key in KVD.on_nvme else KVD.blocks.get(key, MISSING) for key in self._keys
        ]

    def complete(self, corrupt=()):
        if self._end():
            for index in corrupt:
                KVD.blocks.pop(self._keys[index], None)
                KVD.corrupt_reports.append(self._keys[index][1])


class Store(Lease):
    def __init__(self, layout, names):
        super().__init__()
        self._keys = [(layout, name) for name in names]
        self._slots = [-1 if key in KVD.blocks else -3 if KVD.busy else next(KVD.ids) for key in self._keys]
        if max(self._slots) < 0:
            self._end()

    def slots(self):
        return self._slots

    def complete(self, filled):
        if self._end() and self.incarnation == KVD.incarnation:
            KVD.blocks.update({self._keys[index]: self._slots[index] for index, _ in filled})


class Client:
    def __init__(self, socket, engine, software, layouts, connect_wait_ms=500, timeout_ms=200):
        self.socket, self.layouts, self.last_error = socket or "", layouts, "the fake is off"

    connected = property(lambda self: KVD.up)
    incarnation = property(lambda self: KVD.incarnation if KVD.up else 0)

    def _ask(self, question):
        KVD.questions.append(question)
        return KVD.up and not KVD.silent

    def lookup(self, layout, hashes, until_miss=True):
        if not self._ask("lookup"):
            return None
        keys = [(layout, name) for name in split(hashes)]
        states = [NVME if key in KVD.on_nvme else CPU if key in KVD.blocks else MISS for key in keys]
        return bytes(states[: states.index(MISS) + 1] if until_miss and MISS in states else states)

    def prepare_load(self, layout, hashes, deadline_ms=0):
        return Load(layout, hashes) if self._ask("prepare_load") else None

    def prepare_store(self, layout, chain, blocks):
        names = [chain.hashes(block, block + 1) for block in blocks]
        return Store(layout, names) if self._ask("prepare_store") else None

    def prepare_store_named(self, layout, hashes, parents):
        return Store(layout, split(hashes)) if self._ask("prepare_store") else None

    def touch(self, layout, hashes):
        self._ask("touch")

    def close(self):
        KVD.leases.clear()


class Worker:
    def __init__(self, socket, engine, software, connect_wait_ms=500, threads=0):
        self._registered = []

    connected = property(lambda self: KVD.up)
    incarnation = property(lambda self: KVD.incarnation)

    def register(self, layout, rank, layers):
        self._registered.append((rank, layers))
        return len(self._registered) - 1

    def store(self, pages, incarnation, block_ids, slots):
        if incarnation != KVD.incarnation or not KVD.up:
            return None
        rank, layers = self._registered[pages]
        for block, slot in zip(block_ids, slots):
            stripe = b"".join(ctypes.string_at(base + block * stride, size) for base, size, stride, _ in layers)
            KVD.slots[slot, rank] = (stripe, digest(stripe))
        return [KVD.slots[slot, rank][1] for slot in slots]

    def load(self, pages, incarnation, block_ids, slots, hashes):
        if incarnation != KVD.incarnation or not KVD.up:
            return None
        return [self._load_one(pages, block, slot) for block, slot in zip(block_ids, slots)]

    def _load_one(self, pages, block, slot):
        rank, layers = self._registered[pages]
        stripe, checksum = KVD.slots[slot, rank]
        at = 0
        for base, size, stride, _ in layers:
            ctypes.memmove(base + block * stride, stripe[at : at + size], size)
            at += size
        return digest(stripe) == checksum

    def start_load(self, pages, incarnation, block_ids, slots, hashes):
        arrived = self.load(pages, incarnation, block_ids, slots, hashes)
        return arrived and SimpleNamespace(wait_layer=lambda layer: None, finish=lambda: arrived)


def digest(data):
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def layout_id(layout):
    return hashlib.blake2b(repr(sorted(layout.items())).encode(), digest_size=16).hexdigest()


def version():
    return "fake"


def default_socket():
    return "/nowhere"
