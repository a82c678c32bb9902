"""The comparison of the VAEs at its smallest size: that it measures, never how fast."""

import pytest
import torch
from consisid_pack.consisid_core.dev import benchmark, benchmark_vae
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.benchmarks import measured


def test_table_is_complete(capsys):
    title, rows = measured("vae", capsys)
    assert title == "vae, small, fp32, cpu: 9 frames of 24x16, widths 32, 32, 64, 64; median of 1 turns."
    timed = [f"{what}{chunks}{clock}" for what in ("decode", "encode") for chunks in ("", " in small chunks")
             for clock in ("", ", processor time")]  # fmt: skip
    memory = [f"peak memory of {what}{chunks}, besides weights" for what in ("decode", "encode")
              for chunks in ("", " in small chunks")]  # fmt: skip
    assert sorted(rows) == sorted([*timed, *memory])


def test_nets_that_disagree_are_not_timed(monkeypatch):
    build_vaes = benchmark_vae.build_vaes

    def with_one_weight_off(*args):
        ours, theirs = build_vaes(*args)
        bias = ours.decoder.conv_out.conv.bias
        ours.decoder.conv_out.conv.bias = torch.nn.Parameter(bias + 0.1, requires_grad=False)
        return ours, theirs

    monkeypatch.setattr(benchmark_vae, "build_vaes", with_one_weight_off)
    monkeypatch.setattr(benchmark_vae, "timings", lambda *args: pytest.fail("timed all the same"))
    with pytest.raises(ConsisIDError, match="VAEs disagree: relative error of decode"):
        benchmark_vae.compare_vae("small", "cpu", "fp32", 1)


def test_a_type_that_the_vae_lacks_is_refused():
    with pytest.raises(SystemExit, match="does not run in fp8. Choose --dtype fp32 or bf16"):
        benchmark.main(["--what", "vae", "--size", "small", "--device", "cpu", "--dtype", "fp8"])
