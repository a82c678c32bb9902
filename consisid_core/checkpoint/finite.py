"""NaN and infinity among weights, from which videos become black."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ConsisIDError
from .reading import Checkpoint

if TYPE_CHECKING:
    import torch


def check_finite(checkpoint: Checkpoint, on_tensor: Callable[[], None] = lambda: None) -> None:
    """Look at every value of a checkpoint: 0.13 s for a gigabyte that is in memory, else what the disk takes.

    Args:
        checkpoint: of `read_checkpoint`.
        on_tensor: called after each tensor; it may raise.

    Raises:
        ConsisIDError: naming file and parameters that hold values which are not finite.
    """
    broken = []
    for name, tensor in checkpoint.tensors.items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            broken.append(name)
        on_tensor()
    if broken:
        raise ConsisIDError(
            f"{checkpoint.path} holds values that are not finite numbers (NaN or infinity) in {len(broken)} parameters "
            f"({', '.join(broken[:10])}{', …' if len(broken) > 10 else ''}): videos would be black. It is damaged or "
            "was converted wrongly; download it again."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    import torch

    if tensor.numel() == 0:
        return True
    if tensor.dtype == torch.float8_e4m3fn:  # All but one of its exponent's and mantissa's bits set are numbers.
        return bool((tensor.view(torch.int8) & 0x7F).max() < 0x7F)
    if tensor.dtype == torch.float8_e5m2:
        return bool((tensor.view(torch.int8) & 0x7F).max() < 0x7C)
    if tensor.dtype.itemsize == 1:  # Scales that are powers of two.
        return bool(tensor.float().isfinite().all())
    # One pass without a copy; both ends are NaN if any value is.
    return all(end.isfinite() for end in torch.aminmax(tensor))
