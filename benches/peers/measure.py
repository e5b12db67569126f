"""What an operation took: seconds, CPU of every process that had a part in it, and memory.

CPU comes from the kernel's clock of each process (`clock_gettime` on a process's CPU clock: the sum that
`/proc/PID/stat` rounds to hundredths of a second, user and system, all threads, also those that ended). Work that the
kernel does in threads of its own, writeback of the page cache above all, is in no process and not counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

GIB = 1 << 30
SETTLE_SECONDS = 0.05
"""A store may finish its work after it has answered; CPU is read this much later, for every store alike."""


def family(pid: int) -> list[int]:
    """`pid` and every process that descends from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parent = _parent(entry)
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of all of them until now. Processes that ended count nothing."""
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    scheduler_clock = (~pid << 3) | 2  # as clock_getcpuclockid(3) builds it
    try:
        return time.clock_gettime(scheduler_clock)
    except OSError:
        return 0.0


def resident_mib(pids: list[int]) -> float:
    """Resident memory of all of them; a page that several share is counted once."""
    return sum(_proportional_kib(pid) for pid in pids) / 1024


def _proportional_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def timed(operation: Callable[[], None], bytes_moved: int) -> dict[str, float]:
    """Runs it here: `gb_per_s` of the bytes it moved, and `cpu_s_per_gib` of this process and its children."""
    pids = family(os.getpid())
    cpu, begin = cpu_seconds(pids), time.perf_counter()
    operation()
    seconds = time.perf_counter() - begin
    time.sleep(SETTLE_SECONDS)
    cpu = cpu_seconds(pids) - cpu
    return {"gb_per_s": bytes_moved / 1e9 / seconds, "cpu_s_per_gib": cpu / (bytes_moved / GIB)}


class Samples:
    """Measurements by what was measured; read as medians."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, ...], list[float]] = {}

    def add(self, value: float, *of: str) -> None:
        self._values.setdefault(of, []).append(value)

    def median(self, *of: str) -> float | None:
        """None when it was never measured."""
        values = self._values.get(of)
        return median(values) if values else None

    def runs(self, *of: str) -> int:
        return len(self._values.get(of, []))
