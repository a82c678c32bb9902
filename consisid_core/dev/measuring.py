"""Time and memory of two implementations on one machine, for the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from ..errors import ConsisIDError

Row = tuple[str, str, float, float, float]
"""What, unit, ours, the reference's, the reference's / ours."""

Turns = Sequence[tuple[float, float]]
"""(wall, processor) seconds of one call in each turn."""

MIB = 2**20

COMPUTE_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}
"""Of the command's --dtype."""
AGREEMENT = {"fp32": 1e-5, "bf16": 3e-2, "fp8": 3e-2}
"""Relative error allowed: bf16 keeps 8 bits, and each net rounds in its own order, layer upon layer."""


def stored_dtype(what: str, dtype: str) -> torch.dtype:
    """Of what has no fp8 form.

    Raises:
        ConsisIDError: fp8 was asked for.
    """
    if dtype == "fp8":
        raise ConsisIDError(f"The {what} does not run in fp8. Choose --dtype fp32 or bf16.")
    return COMPUTE_DTYPE[dtype]


def require_agreement(
    who: str, ours: torch.Tensor, theirs: torch.Tensor, allowed: float, result: str | None = None
) -> None:
    """Before anything is timed: both implementations must compute the same.

    Args:
        who: the two, in the plural; result: which result of theirs.
        ours, theirs: tensors of one shape.
        allowed: greatest difference, relative to the norm.

    Raises:
        ConsisIDError: they do not.
    """
    error = relative_error(ours, theirs)
    if not error <= allowed:
        raise ConsisIDError(
            f"The {who} disagree: relative error {f'of {result} ' if result else ''}{error:.2g}, allowed "
            f"{allowed:.2g}. Timings of different computations mean nothing, so there are none. Please report this "
            "with your versions of torch and diffusers."
        )


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Of tensors of one shape, by the norm."""
    expected = expected.float()
    return ((actual.float() - expected).norm() / expected.norm()).item()


def seconds(call: Callable, device: str) -> tuple[float, float]:
    """(wall, processor) seconds of one call; the processor's count all threads, and no other program's load."""
    synchronize(device)
    wall, processor = time.perf_counter(), time.process_time()
    call()
    synchronize(device)
    return time.perf_counter() - wall, time.process_time() - processor


def synchronize(device: str) -> None:
    """Wait for what the device still computes."""
    if device == "cuda":
        torch.cuda.synchronize()


def timings(calls: Sequence[Callable], device: str, repeats: int) -> list[tuple[tuple[float, float], ...]]:
    """`seconds` of each call in each turn, [len(calls)][repeats], after one turn to warm up."""
    turns = [[seconds(call, device) for call in calls] for _ in range(repeats + 1)]
    return list(zip(*turns[1:], strict=True))


def peak_memory(call: Callable, device: str) -> int:
    """Bytes allocated during a call at their highest, without what was there before."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def timed_rows(what: str, ours: Turns, theirs: Turns, device: str) -> list[Row]:
    """Median times, and the median over turns of their quotients; on a CPU of processor time, too."""
    rows = []
    for clock, name in enumerate(("", ", processor time")[: 1 if device == "cuda" else 2]):
        mine, others = ([turn[clock] for turn in turns] for turns in (ours, theirs))
        ratio = statistics.median(b / a for a, b in zip(mine, others, strict=True))
        rows.append((f"{what}{name}", "s", statistics.median(mine), statistics.median(others), ratio))
    return rows


def memory_row(what: str, ours: Callable, theirs: Callable, device: str) -> Row:
    """Peaks of memory besides weights and inputs."""
    peaks = [peak_memory(call, device) / MIB for call in (ours, theirs)]
    return f"peak memory of {what}, besides weights", "MiB", *peaks, peaks[1] / peaks[0]


def median_wall(turns: Turns) -> float:
    """Seconds."""
    return statistics.median(wall for wall, _ in turns)


def print_table(rows: Sequence[Row], other: str = "diffusers") -> None:
    """As Markdown; other: name of what ours is compared with."""
    print(f"| | unit | ours | {other} | {other} / ours |\n|---|---|---|---|---|")
    for what, unit, ours, theirs, ratio in rows:
        print(f"| {what} | {unit} | {ours:.3g} | {theirs:.3g} | {ratio:.2f} |")
