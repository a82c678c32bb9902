"""The two ways to measure a video, and the means that both end in.

`paper` is what `eval/` of the official repository computes, and the paper's tables hold; `strict` is correct.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import ConsisIDError

PROTOCOLS = ("strict", "paper")

PAPER_FRAMES = 16
"""So many frames of a video the paper's code looks at, however long it is."""


def check_protocol(protocol: str) -> None:
    """Refuse what is none of `PROTOCOLS`.

    Raises:
        ConsisIDError: it is none.
    """
    if protocol not in PROTOCOLS:
        raise ConsisIDError(f"There is no protocol {protocol!r}; choose {' or '.join(PROTOCOLS)}.")


@dataclass(frozen=True)
class Score:
    """A mean over the frames of a video, or over videos."""

    mean: float
    standard_error: float | None
    """Of the mean; None in the paper's protocol, which has none, and for fewer than two values."""
    count: int
    """Values in the mean."""


def mean_score(values: Iterable[float]) -> Score:
    """Score of independent values.

    Args:
        values: [N], at least one.
    """
    values = np.asarray(values, np.float64)
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return Score(float(values.mean()), error, len(values))
