"""The comparison of the transformers at its smallest size."""

import pytest
import torch
from consisid_pack.consisid_core.dev import benchmark_transformer
from consisid_pack.consisid_core.errors import ConsisIDError


@torch.inference_mode()
def test_nets_that_disagree_are_not_timed(monkeypatch):
    build_pair = benchmark_transformer.build_pair

    def with_one_weight_off(*args):
        ours, theirs = build_pair(*args)
        ours.proj_out.bias = torch.nn.Parameter(ours.proj_out.bias + 0.01, requires_grad=False)
        return ours, theirs

    monkeypatch.setattr(benchmark_transformer, "build_pair", with_one_weight_off)
    monkeypatch.setattr(benchmark_transformer, "timings", lambda *args: pytest.fail("timed all the same"))
    with pytest.raises(ConsisIDError, match="nets disagree"):
        benchmark_transformer.benchmark("small", "cpu", "fp32", 1)


@torch.inference_mode()
def test_operations_are_those_of_the_formula():
    contest = benchmark_transformer.Contest("small", "cpu", "fp32")
    config, tokens = contest.config, len(contest.factors[0])
    block = tokens * config.hidden_dim * (4 * config.hidden_dim + 2 * config.ff_dim) + 2 * tokens**2 * config.hidden_dim
    counted = benchmark_transformer.count_operations(contest.ours_forward)
    # The rest, face attention, modulation and the ends, is a few per cent here.
    assert 1 < counted / (2 * config.num_layers * block) < 1.3
