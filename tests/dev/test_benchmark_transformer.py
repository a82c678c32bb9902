"""The benchmark command at its smallest size: that it measures, never how fast."""

import math
import re

import pytest
import torch
from consisid_pack.consisid_core.dev import benchmark
from consisid_pack.consisid_core.errors import ConsisIDError


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp8"])
def test_table_is_complete(capsys, dtype):
    benchmark.main(["--size", "small", "--device", "cpu", "--dtype", dtype, "--repeats", "2"])
    lines = capsys.readouterr().out.splitlines()
    rows = {cells[1]: cells[2:-1] for cells in (re.split(r" *\| *", line) for line in lines if line.startswith("| "))}
    timed = ["forward, transformer alone", "denoising step with CFG"]
    expected = [
        *timed, *(f"{name}, processor time" for name in timed), "peak memory of a step, besides weights",
        *(f"{part}, of a forward" for part in benchmark.PARTS), "rate of a forward, of a matrix product's",
    ]  # fmt: skip
    assert [name for name in rows if name] == expected
    for name in expected:
        _, *numbers = rows[name]
        assert len(numbers) == 3 and all(0 < float(number) < math.inf for number in numbers), (name, numbers)
    for column in (1, 2):
        shares = [float(rows[f"{part}, of a forward"][column]) for part in benchmark.PARTS]
        assert sum(shares) == pytest.approx(100, abs=1)


@torch.inference_mode()
def test_nets_that_disagree_are_not_timed(monkeypatch):
    build_pair = benchmark.build_pair

    def with_one_weight_off(*args):
        ours, theirs = build_pair(*args)
        ours.proj_out.bias = torch.nn.Parameter(ours.proj_out.bias + 0.01, requires_grad=False)
        return ours, theirs

    monkeypatch.setattr(benchmark, "build_pair", with_one_weight_off)
    monkeypatch.setattr(benchmark, "timings", lambda *args: pytest.fail("timed all the same"))
    with pytest.raises(ConsisIDError, match="nets disagree"):
        benchmark.benchmark("small", "cpu", "fp32", 1)


@torch.inference_mode()
def test_operations_are_those_of_the_formula():
    contest = benchmark.Contest("small", "cpu", "fp32")
    config, tokens = contest.config, len(contest.factors[0])
    block = tokens * config.hidden_dim * (4 * config.hidden_dim + 2 * config.ff_dim) + 2 * tokens**2 * config.hidden_dim
    counted = benchmark.count_operations(contest.ours_forward)
    # The rest, face attention, modulation and the ends, is a few per cent here.
    assert 1 < counted / (2 * config.num_layers * block) < 1.3
