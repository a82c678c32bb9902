"""The benchmark command at its smallest size."""

import math

from consisid_pack.consisid_core.dev import benchmark


def measured(what, capsys):
    """Runs one comparison; returns the line that says what was measured, and the names of its rows in their order.
    Every figure is a number above 0."""
    benchmark.main(["--what", what, "--size", "small", "--device", "cpu", "--dtype", "fp32", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    rows = {cells[1].strip(): cells[3:-1] for cells in (line.split("|") for line in lines[4:])}
    assert all(0 < float(number) < math.inf for numbers in rows.values() for number in numbers)
    return lines[0], list(rows)
