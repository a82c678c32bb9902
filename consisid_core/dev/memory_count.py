"""Counts the memory that tensors hold while code runs; on the meta device nothing is computed and any net fits.

with MemoryCounter() as counted:
    net(torch.empty(..., device="meta"))
counted.peak
"""

from __future__ import annotations

import dataclasses
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ..model.config import TransformerConfig
from ..model.transformer import ConsisIDTransformer


class MemoryCounter(TorchDispatchMode):
    """Follows each storage that an operation makes until it is freed.

    What a kernel takes for itself, such as cuDNN's workspaces, and the allocator's rounding are not seen.

    Attributes:
        peak: the most bytes that lived at once, of what was made while counting.
        live: those that live now.
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._followed = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(tensor.untyped_storage()) for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if id(storage) not in given and id(storage) not in self._followed:
                self._follow(storage)
        self.peak = max(self.peak, self.live)
        return result

    def _follow(self, storage):
        key, size = id(storage), storage.nbytes()

        def freed(_):
            del self._followed[key]
            self.live -= size

        self._followed[key] = weakref.ref(storage, freed)
        self.live += size


def _tensors(tree):
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor))


def forward_peak(
    config: TransformerConfig,
    batch: int = 1,
    latent_size: tuple[int, int, int] = (13, 60, 90),
    layers: int = 2,
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Bytes that a forward of the transformer holds at most beside weights and inputs, with fused attention.

    Args:
        latent_size: frames, height and width of the latents.
        layers: to so many the config is cut; more of them hold no more.
    """
    config = dataclasses.replace(config, num_layers=layers)
    net = ConsisIDTransformer(config, device="meta", dtype=dtype, attention=fused_attention)

    def empty(*shape):
        return torch.empty(batch, *shape, device="meta", dtype=dtype)

    text = empty(config.max_text_length, config.text_embed_dim)
    tokens = empty(config.facial_extractor.num_queries, config.facial_extractor.output_dim)
    with torch.no_grad(), MemoryCounter() as counted:
        net(empty(config.in_channels, *latent_size), torch.empty(batch, device="meta"), text, tokens)
    return counted.peak


def fused_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, **kwargs) -> torch.Tensor:
    """`attention.scaled_dot_product_attention` as a card computes it: no matrix of all tokens by all tokens."""
    attended = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return attended.transpose(1, 2).flatten(2)


def vae_peak(net: torch.nn.Module, method: str, shape: tuple[int, ...]) -> int:
    """Bytes that a VAE net on the meta device holds at most beside weights and input.

    Args:
        method: "encode" or "decode".
        shape: of the pixels or the latents.
    """
    with torch.no_grad(), MemoryCounter() as counted:
        getattr(net, method)(torch.empty(shape, device="meta", dtype=next(net.parameters()).dtype))
    return counted.peak
