"""The benchmark command at its smallest size: that it measures, never how fast."""

import math
import re

import pytest
from consisid_pack.consisid_core.dev import benchmark
from consisid_pack.consisid_core.dev.benchmark_transformer import PARTS


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp8"])
def test_table_is_complete(capsys, dtype):
    benchmark.main(["--size", "small", "--device", "cpu", "--dtype", dtype, "--repeats", "2"])
    lines = capsys.readouterr().out.splitlines()
    rows = {cells[1]: cells[2:-1] for cells in (re.split(r" *\| *", line) for line in lines if line.startswith("| "))}
    timed = ["forward, transformer alone", "denoising step with CFG"]
    expected = [
        *timed, *(f"{name}, processor time" for name in timed), "peak memory of a step, besides weights",
        *(f"{part}, of a forward" for part in PARTS), "rate of a forward, of a matrix product's",
    ]  # fmt: skip
    assert [name for name in rows if name] == expected
    for name in expected:
        _, *numbers = rows[name]
        assert len(numbers) == 3 and all(0 < float(number) < math.inf for number in numbers), (name, numbers)
    for column in (1, 2):
        shares = [float(rows[f"{part}, of a forward"][column]) for part in PARTS]
        assert sum(shares) == pytest.approx(100, abs=1)


def test_no_turns_are_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--size", "small", "--device", "cpu", "--repeats", "0"])
    assert "'0' is not a whole number from 1 on" in capsys.readouterr().err
