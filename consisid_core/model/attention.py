"""The attention function that the nets call, in the form that ComfyUI's `optimized_attention` has."""

import torch.nn.functional as F


def scaled_dot_product_attention(q, k, v, heads, skip_reshape=True, transformer_options=None):
    """Softmax attention by torch, for use outside ComfyUI.

    q [B, heads, L, D], k and v [B, heads, S, D] -> [B, L, heads * D]. Only the layout `skip_reshape=True` is taken;
    `heads` and `transformer_options` are there because ComfyUI's function takes them.
    """
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def split_heads(x, heads):
    """[B, L, heads * D] -> [B, heads, L, D]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
