"""The loss (paper equation 1, official `train.py:1197`), written once.

The reference turns the predicted velocity v' into x_0' = sqrt(a) x_t - sqrt(1 - a) v', as the true v turns into x_0,
and weights the squared error by 1 / (1 - a). The noisy latents are the same in both, so

    x_0' - x_0 = -sqrt(1 - a) (v' - v)    and    (x_0' - x_0)^2 / (1 - a) = (v' - v)^2:

the plain squared error of the velocity, the factor being 1. This form has neither the division by 1 - a, which is
8.5e-4 at timestep 0, nor the difference of two nearly equal numbers there. At timestep 999 a is 0: x_t is noise alone,
v is -x_0, and both forms are the squared error of x_0.
"""

from __future__ import annotations

import torch


def clip_losses(predicted: torch.Tensor, velocity: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Loss of each clip, averaged over what its mask weights (dynamic mask loss, section 3.4; `train.py:1208`).

    Args:
        predicted: [B, C, T, h, w].
        velocity: the same of the true one.
        mask: [B, T, h, w] 0..1, somewhere above 0; ones for the plain mean.

    Returns:
        float32 [B]; the gradient is exactly 0 where the mask is.
    """
    squares = (predicted.float() - velocity.float()).square()
    weights = mask.float().unsqueeze(1).expand_as(squares)
    return (squares * weights).flatten(1).sum(1) / weights.flatten(1).sum(1)
