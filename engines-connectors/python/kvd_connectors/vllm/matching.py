"""Which blocks a hit of a given length needs, and how long the longest usable hit is. Pure arithmetic.

Full attention needs every block before the end of the hit. A group with a sliding window needs only those that
the next token can see; vLLM leaves the others unallocated. A hybrid model needs both at the same length.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Protocol


class Grouped(Protocol):
    """What the search needs to know of a KV cache group."""

    @property
    def block_tokens(self) -> int: ...
    @property
    def window(self) -> int | None: ...


def needed_blocks(group: Grouped, start: int, end: int) -> range:
    """Blocks of `group` to load so that tokens from `end` on can be computed, when `[0, start)` is there already."""
    first = start if group.window is None else max(start, end - group.window + 1)
    return range(first // group.block_tokens, end // group.block_tokens)


def longest_usable(
    groups: Sequence[Grouped], start: int, limit: int, have: Sequence[tuple[int, Sequence[bool]]]
) -> int:
    """Greatest end in `(start, limit]` at which every group has the blocks it needs; `start` when there is none.

    `have[g]` is the first block that was looked for in group `g` and whether that and the following ones are there.
    The answer is a multiple of every group's block size.
    """
    step = lcm(*(group.block_tokens for group in groups))
    for group, (first, present) in zip(groups, have):
        if group.window is None:
            limit = min(limit, (first + _leading(present)) * group.block_tokens)
    gaps = [_latest_gaps(present) for _, present in have]
    for end in range(limit // step * step, start, -step):
        if all(_covered(group, start, end, first, gap) for group, (first, _), gap in zip(groups, have, gaps)):
            return end
    return start


def _leading(present: Sequence[bool]) -> int:
    return next((index for index, there in enumerate(present) if not there), len(present))


def _latest_gaps(present: Sequence[bool]) -> list[int]:
    """For each index, the last index up to it that is absent, or -1."""
    gaps, latest = [], -1
    for index, there in enumerate(present):
        latest = latest if there else index
        gaps.append(latest)
    return gaps


def _covered(group: Grouped, start: int, end: int, first: int, gaps: list[int]) -> bool:
    need = needed_blocks(group, start, end)
    last = need.stop - 1 - first
    return len(need) == 0 or (need.start >= first and last < len(gaps) and gaps[last] < need.start - first)
