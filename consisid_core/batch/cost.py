"""What a run costs, from measured seconds, before it starts."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from .progress import duration

H100_SECONDS = 110.0
"""Published for 49 frames of 720x480 in 50 steps on one H100 (the official README, "Accelerate with TeaCache")."""

_WORKERS = (1, 4, 8, 32)


def cost_lines(
    videos: int, given: float | None, measured: list[float], price: float | None, gpus_each: int = 1
) -> Iterator[str]:
    """The arithmetic, for the user to read.

    Args:
        videos: so many are to be made.
        given: seconds for one, if the user says it.
        measured: seconds of those that were made in this folder.
        price: of one GPU for an hour.
        gpus_each: so many GPUs took, or are to take, the seconds given or measured.
    """
    if not videos:
        return
    if given:
        seconds, whence = given, "as given"
    elif measured:
        seconds, whence = statistics.median(measured), f"the median of {len(measured)} made here"
    else:
        seconds, whence, gpus_each = H100_SECONDS, "published for one H100, 49 frames of 720x480, 50 steps", 1
    hours = videos * seconds * gpus_each / 3600
    each = f" x {gpus_each} GPUs" if gpus_each > 1 else ""
    yield f"{videos:,} to make x {seconds:.4g} s{each} ({whence}) = {hours:,.1f} GPU hours."
    times = ", ".join(f"{duration(hours * 3600 / count)} on {count}" for count in _WORKERS)
    yield f"That is {times} GPUs." + (f" At {price:g} an hour it costs {hours * price:,.2f}." if price else "")
