"""Our transformer compiled by torch.compile against itself as it is, for the benchmark."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..errors import ConsisIDError
from .measuring import Row, timed_rows, timings

AGREEMENT = {"fp32": 1e-5, "bf16": 3e-2, "fp8": 3e-2}
"""Relative error allowed: fused kernels round between fewer steps."""


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
    expected = forward(net).float()
    error = ((forward(compiled).float() - expected).norm() / expected.norm()).item()
    if not error <= AGREEMENT[dtype]:
        raise ConsisIDError(
            f"The compiled net disagrees with itself: relative error {error:.2g}, allowed {AGREEMENT[dtype]:.2g} in "
            f"{dtype}. Please report this with your version of torch."
        )
    with torch.compiler.set_stance("fail_on_recompile"):
        times = timings([lambda: forward(compiled), lambda: forward(net)], device, repeats)
    return timed_rows("forward, transformer alone", *times, device)
