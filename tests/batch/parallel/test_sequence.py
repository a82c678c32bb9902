"""Latents of several processes against those of one."""

import math

import pytest
import torch
import torch.nn.functional as F
from consisid_pack.consisid_core.batch.parallel import sequence

EXACT = 1e-5


@pytest.mark.parametrize(
    "layout",
    ["2 1 1", "1 2 1", "1 1 2", "1 3 1", "1 1 3", "2 2 1", "2 1 2", "1 2 2", "1 1 4"],
    ids=lambda layout: "CFG {} ring {} Ulysses {}".format(*layout.split()),
)
def test_latents_equal_those_of_one_process(compared, layout):
    errors = [found[layout][0] for found in compared if layout in found]
    assert len(errors) == math.prod(map(int, layout.split()))
    assert max(errors) <= EXACT


def test_log_sums_are_those_of_the_softmax():
    q, k, v = (torch.randn(2, 3, length, 16, generator=torch.Generator().manual_seed(length)) for length in (5, 7, 7))
    out, log_sum = sequence._attention_with_log_sum(q, k, v)
    expected = torch.logsumexp(q @ k.transpose(2, 3) / 4, dim=-1, keepdim=True)
    torch.testing.assert_close(log_sum, expected)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))
