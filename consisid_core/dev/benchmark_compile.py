"""Our transformer compiled by torch.compile against itself as it is, for the benchmark."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..errors import ConsisIDError
from .measuring import AGREEMENT, Row, relative_error, timed_rows, timings


@torch.inference_mode()
def compare_compiled(
    net: nn.Module, forward: Callable[[nn.Module], torch.Tensor], device: str, dtype: str, repeats: int, backend: str
) -> list[Row]:
    """Rows of the whole net in one graph.

    Args:
        forward: what is timed, as a function of the net.
        backend: torch.compile's.

    Raises:
        ConsisIDError: the compiled net computes something else.
    """
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    error = relative_error(forward(compiled), forward(net))
    if not error <= AGREEMENT[dtype]:
        raise ConsisIDError(
            f"The compiled net disagrees with itself: relative error {error:.2g}, allowed {AGREEMENT[dtype]:.2g} in "
            f"{dtype}. Please report this with your version of torch."
        )
    with torch.compiler.set_stance("fail_on_recompile"):
        times = timings([lambda: forward(compiled), lambda: forward(net)], device, repeats)
    return timed_rows("forward, transformer alone", *times, device)
