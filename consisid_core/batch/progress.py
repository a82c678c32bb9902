"""The bar of a run: how many videos, how fast, how long still, and what failed."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

_WINDOW = 200  # The speed is that of so many last ones: a run of days that gains a machine must not show the old one.


class Progress:
    """Counts what ended."""

    def __init__(self, total: int, what: str) -> None:
        """
        Args:
            total: so many are to be made.
            what: plural of what they are.
        """
        interval = 0.1 if sys.stderr.isatty() else 30  # In a log every refresh stays.
        self._bar = tqdm(
            total=total, bar_format="{l_bar}{bar}| {n}/{total} " + what + "{postfix} [{elapsed}]", dynamic_ncols=True,
            mininterval=interval,
        )  # fmt: skip
        self._ends: deque[float] = deque(maxlen=_WINDOW)
        self.failures: Counter[str] = Counter()
        """Kind -> so many failed for good."""

    def begin(self) -> None:
        """Note that work has begun; the time that servers took to start says nothing of its speed."""
        if not self._ends:
            self._ends.append(time.monotonic())

    def ended(self, failure: str = "") -> None:
        """Count one.

        Args:
            failure: kind, if it failed.
        """
        self.begin()
        self._ends.append(time.monotonic())
        if failure:
            self.failures[failure] += 1
        self._bar.set_postfix_str(self._said(), refresh=False)
        self._bar.update(1)

    def say(self, line: str) -> None:
        """Write a line above the bar."""
        self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _said(self):
        per_second = (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-9)
        left = (self._bar.total - self._bar.n - 1) / per_second
        failed = "".join(f", {count} {kind}" for kind, count in sorted(self.failures.items()))
        return f"{3600 * per_second:.0f} an hour, {duration(left)} left{failed}"


@contextmanager
def progress(total: int, what: str) -> Iterator[Progress]:
    """A `Progress` that is closed at the end."""
    bar = Progress(total, what)
    try:
        yield bar
    finally:
        bar.close()


def duration(seconds: float) -> str:
    """Seconds as somebody says them who plans by them: "40 s", "5 min", "3 h 20 min", "17.2 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min"
    return f"{seconds / 86400:.1f} days"
