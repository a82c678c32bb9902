"""The attention function that the nets call, in the form that ComfyUI's `optimized_attention` has."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange

Attention = Callable[..., torch.Tensor]
"""Called as `scaled_dot_product_attention` below is."""


def scaled_dot_product_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    skip_reshape: bool = True,
    transformer_options: dict | None = None,
) -> torch.Tensor:
    """Softmax attention by torch, for use outside ComfyUI.

    Args:
        q: [B, heads, L, D].
        k: [B, heads, S, D], as v.
        heads: taken because ComfyUI's function takes it, as transformer_options.
        skip_reshape: only this layout of q, k and v, which ComfyUI calls so, is known here.

    Returns:
        [B, L, heads * D].
    """
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h l d -> b l (h d)")


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, L, heads * D] -> [B, heads, L, D], a view."""
    return rearrange(x, "b l (h d) -> b h l d", h=heads)
