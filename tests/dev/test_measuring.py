"""What the benchmarks measure with."""

import pytest
import torch
from consisid_pack.consisid_core.dev.measuring import memory_row, peak_memory, timed_rows


def test_ratio_is_the_median_of_each_turns():
    ours, theirs = [(1.0, 1.0), (10.0, 2.0), (2.0, 1.0)], [(2.0, 3.0), (30.0, 4.0), (2.0, 3.0)]
    wall, processor = timed_rows("a step", ours, theirs, "cpu")
    assert wall == ("a step", "s", 2.0, 2.0, 2.0)
    assert processor == ("a step, processor time", "s", 1.0, 3.0, 3.0)
    assert timed_rows("a step", ours, theirs, "cuda") == [wall]


def test_memory_is_compared_in_mib():
    def take(mib):
        return lambda: torch.empty(mib * 2**20, dtype=torch.uint8)

    assert memory_row("a step", take(1), take(3), "cpu")[2:] == pytest.approx((1, 3, 3), rel=0.01)


def test_peak_memory_counts_what_lives_at_once():
    size = 2**20

    def allocate():
        first = torch.empty(size, dtype=torch.uint8)
        del first
        second, third = torch.empty(2 * size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
        return second, third

    assert peak_memory(allocate, "cpu") == pytest.approx(3 * size, rel=0.01)
