"""The counter of memory against PyTorch's allocator, and what it counts of the transformer."""

import pytest
import torch
from consisid_pack.consisid_core.dev.memory_count import MemoryCounter, forward_peak
from consisid_pack.consisid_core.model.config import TransformerConfig


def test_transformer_peak_does_not_grow_with_depth():
    counts = [forward_peak(TransformerConfig(), 1, (3, 60, 90), layers) for layers in (2, 6)]
    assert counts[0] == counts[1]


@torch.inference_mode()
def test_counted_memory_is_what_the_allocator_gives():
    """The counter against PyTorch's profile of the CPU allocator, on a chain with views, reuse and in-place steps."""

    def work():
        a = torch.empty(1000, 1000)
        b = torch.relu(a).t()
        a = b[:500] + 1
        c = torch.cat((a, a), dim=1).mul_(2)
        del b
        return torch.stack((c, c)).sum(0)

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    with MemoryCounter() as counted:
        work()
    assert counted.peak == pytest.approx(peak, rel=1e-3)
