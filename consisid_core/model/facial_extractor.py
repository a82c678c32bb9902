"""High-frequency identity (paper section 3.3): the Q-former that turns one face into 32 tokens, and the
cross-attention by which transformer blocks read them. Parameter names are those of diffusers' `LocalFacialExtractor`
and `PerceiverCrossAttention` (`consisid_transformer_3d.py:36`, `:183`)."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from einops import rearrange
from torch import nn

from .attention import Attention, split_heads
from .config import FacialExtractorConfig


class PerceiverAttention(nn.Module):
    """Latents attend to a context and, unless it has a width of its own, to themselves. Both are normalised first."""

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        attention: Attention,
        context_dim: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: ModuleType = nn,
    ):
        """
        Args:
            dim: width of the latents.
            attention: ComfyUI's or `attention.scaled_dot_product_attention`.
            context_dim: width of the context of a cross-attention; None if it is `dim` and latents are keys, too.
            operations: where the layer classes come from.
        """
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.cross = context_dim is not None
        context_dim = context_dim or dim
        self.heads = heads
        self.attention = attention
        self.norm1 = operations.LayerNorm(context_dim, **factory)
        self.norm2 = operations.LayerNorm(dim, **factory)
        self.to_q = operations.Linear(dim, heads * head_dim, bias=False, **factory)
        self.to_kv = operations.Linear(context_dim, heads * head_dim * 2, bias=False, **factory)
        self.to_out = operations.Linear(heads * head_dim, dim, bias=False, **factory)

    def forward(self, context: torch.Tensor, latents: torch.Tensor, transformer_options: dict = {}) -> torch.Tensor:
        """One attention, without the residual.

        Args:
            context: [B, S, context_dim].
            latents: [B, L, dim].
            transformer_options: ComfyUI's, for the attention function.

        Returns:
            [B, L, dim].
        """
        context, latents = self.norm1(context), self.norm2(latents)
        keys_from = context if self.cross else torch.cat((context, latents), dim=1)
        q = split_heads(self.to_q(latents), self.heads)
        k, v = rearrange(self.to_kv(keys_from), "b s (kv h d) -> kv b h s d", kv=2, h=self.heads)
        return self.to_out(
            self.attention(q, k, v, self.heads, skip_reshape=True, transformer_options=transformer_options)
        )


class LocalFacialExtractor(nn.Module):
    """Fuses the identity vector with EVA-CLIP features of five depths into identity tokens."""

    def __init__(
        self,
        config: FacialExtractorConfig,
        attention: Attention,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: ModuleType = nn,
    ):
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        dim = config.vit_dim
        self.config = config
        self.latents = nn.Parameter(torch.empty(1, config.num_queries, dim, **factory))
        self.proj_out = nn.Parameter(torch.empty(dim, config.output_dim, **factory))

        def mapping(in_dim, out_dim):
            return nn.Sequential(
                operations.Linear(in_dim, dim, **factory),
                operations.LayerNorm(dim, **factory),
                nn.LeakyReLU(),
                operations.Linear(dim, dim, **factory),
                operations.LayerNorm(dim, **factory),
                nn.LeakyReLU(),
                operations.Linear(dim, out_dim, **factory),
            )

        def feed_forward():
            return nn.Sequential(
                operations.LayerNorm(dim, **factory),
                operations.Linear(dim, dim * config.ff_mult, bias=False, **factory),
                nn.GELU(),
                operations.Linear(dim * config.ff_mult, dim, bias=False, **factory),
            )

        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(dim, config.heads, config.head_dim, attention, operations=operations, **factory),
                    feed_forward(),
                ]
            )
            for _ in range(config.depth)
        )
        for i in range(config.num_scales):
            self.add_module(f"mapping_{i}", mapping(dim, dim))
        self.id_embedding_mapping = mapping(config.id_dim, dim * config.num_id_tokens)

    def forward(self, id_embedding: torch.Tensor, hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Identity tokens of a face. All tensors have one dtype.

        Args:
            id_embedding: [B, 1280] raw recogniser embedding and L2-normalised EVA embedding, concatenated.
            hidden_states: five tensors [B, 577, 1024] of the EVA tower, shallow to deep.

        Returns:
            [B, 32, 2048].
        """
        id_tokens = self.id_embedding_mapping(id_embedding).unflatten(-1, (self.config.num_id_tokens, -1))
        queries = self.latents.to(id_tokens).expand(len(id_tokens), -1, -1)
        latents = torch.cat((queries, id_tokens), dim=1)
        layers_per_scale = self.config.depth // self.config.num_scales
        for i, features in enumerate(hidden_states):
            context = torch.cat((id_tokens, getattr(self, f"mapping_{i}")(features)), dim=1)
            for attention, feed_forward in self.layers[i * layers_per_scale : (i + 1) * layers_per_scale]:
                latents = latents + attention(context, latents)
                latents = latents + feed_forward(latents)
        return latents[:, : self.config.num_queries] @ self.proj_out.to(latents)
