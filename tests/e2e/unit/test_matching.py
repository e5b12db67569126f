import random

from driver import group
from kvd_connectors.vllm.matching import longest_usable, needed_blocks


def test_full_attention_needs_every_block():
    assert needed_blocks(group(), 32, 96) == range(2, 6)


def test_a_window_needs_only_what_the_next_token_sees():
    # The token at 160 sees 31 before it: from 129 on, which is in block 8.
    assert needed_blocks(group(window=32), 0, 160) == range(8, 10)
    assert needed_blocks(group(window=33), 0, 160) == range(8, 10)
    assert needed_blocks(group(window=34), 0, 160) == range(7, 10)


def test_a_hole_ends_a_hit_of_full_attention():
    assert longest_usable([group()], 16, 160, [(1, [True, True, False, True])]) == 48


def test_a_window_looks_past_holes_it_does_not_see():
    present = [True, False, False, True, True, True]
    assert longest_usable([group(window=33)], 0, 96, [(0, present)]) == 96
    assert longest_usable([group(window=49)], 0, 96, [(0, present)]) == 96
    assert longest_usable([group(window=50)], 0, 96, [(0, present)]) == 16


def test_groups_agree_on_a_multiple_of_all_block_sizes():
    groups = [group(), group(1, block_tokens=48)]
    assert longest_usable(groups, 0, 1000, [(0, [True] * 10), (0, [True] * 2)]) == 96


def test_the_search_agrees_with_trying_every_length():
    source = random.Random(7)
    for _ in range(300):
        groups = [group(), group(1, window=source.choice([16, 40, 70]))]
        start = source.randrange(4) * 16
        have = [(start // 16, [source.random() < 0.8 for _ in range(12)]) for _ in groups]

        def usable(end, start=start, groups=groups, have=have):
            return all(
                block - first < len(present) and present[block - first]
                for group, (first, present) in zip(groups, have)
                for block in needed_blocks(group, start, end)
            )

        ends = [end for end in range(start + 16, start + 193, 16) if usable(end)]
        assert longest_usable(groups, start, start + 200, have) == max(ends, default=start)
