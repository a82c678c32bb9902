"""The ConsisID transformer: CogVideoX with two identity inputs (paper Figure 2).

Low frequency: image latents of the face arrive as the last 16 of the 32 input channels. High frequency: identity tokens
are attended by the image tokens in every `cross_attn_interval`-th block, at the place that `injection` names: the
plans of the paper's Table 3 (`config.INJECTION_PLANS`). Parameter names are those of diffusers'
`ConsisIDTransformer3DModel`, so released weights and LoRAs need no renaming.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .attention import Attention, scaled_dot_product_attention, split_heads
from .config import TransformerConfig
from .facial_extractor import LocalFacialExtractor, PerceiverAttention
from .rope import rotary_table, rotate_

Inject = Callable[[str, torch.Tensor, int], torch.Tensor]
"""(a place of `config.INJECTIONS`, tokens [B, L + N, D], text length L) -> the tokens, with the identity added to the
image tokens if it enters there."""


BLOCKS_WRAPPER = "consisid_blocks"
"""Type of the wrappers around the block loop; see `BlockInputs`."""


@dataclass(frozen=True)
class BlockInputs:
    """What the loop over the blocks reads: all that one changes to cache it or to spread it over devices.

    A wrapper around the loop is a function `wrapper(run_blocks, inputs) -> hidden`: `run_blocks(inputs)` is the next
    wrapper or the loop, to be called once, often or not at all, with these inputs or with `dataclasses.replace` of
    them. What the wrapper returns is [B, L + N, D] like `hidden`; the net reads the image tokens of it. Wrappers lie in
    `transformer_options["wrappers"][BLOCKS_WRAPPER][key]`, a list, the first of them outermost: in ComfyUI
    `ModelPatcher.add_wrapper_with_key(BLOCKS_WRAPPER, key, wrapper)` puts one there.

    Where autograd is off the loop overwrites `hidden`: a wrapper that reads it afterwards keeps a copy.

    A shard of the sequence is a run of its tokens, text before image: `hidden` and `rotary` are cut, and `text_length`
    counts the text tokens of this shard, 0 where it has none. Joint attention then needs the keys and values of all
    shards. Identity attention needs none of the others; its calls of the attention function are those with
    `transformer_options["identity_attention"]`.
    """

    hidden: torch.Tensor
    """[B, L + N, D] tokens of text and image."""
    text_length: int
    """L."""
    temb: torch.Tensor
    """[B, time_embed_dim] from which the blocks take their modulation; it depends on the timestep alone."""
    rotary: torch.Tensor
    """Of `rope.rotary_table`: one row for each of the N image tokens."""
    identity_tokens: torch.Tensor | None
    """[B, 32, 2048], or None where no identity acts in this evaluation."""
    identity_scale: float | torch.Tensor
    """Factor on what the identity tokens add; [B] for one of each sample."""
    identity_blocks: tuple[int, int] | None
    """First and last block whose identity attention acts, or None for all."""
    transformer_options: dict
    """ComfyUI's: among others `cond_or_uncond` and `uuids`, the prompts that this batch is made of, and `sigmas`."""


def no_identity(place: str, hidden: torch.Tensor, text_length: int) -> torch.Tensor:
    """An Inject that adds nothing."""
    return hidden


def timestep_embedding(timestep: torch.Tensor, dim: int) -> torch.Tensor:
    """Sinusoidal embedding, cosines first: [B] -> float32 [B, dim]."""
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(dim // 2, dtype=torch.float32, device=timestep.device) / (dim // 2)
    )
    angles = timestep.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def overwritable(x: torch.Tensor) -> torch.Tensor:
    """x where autograd is off; else a copy, because the backward pass reads what the sums in place would overwrite."""
    return x.clone() if torch.is_grad_enabled() else x


def modulate_(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x * (1 + scale) + shift in place; x must be no other function's input."""
    return x.mul_(1 + scale).add_(shift)


def add_gated(
    hidden: torch.Tensor, text_length: int, update: torch.Tensor, text_gate: torch.Tensor, gate: torch.Tensor
) -> torch.Tensor:
    """hidden + gate * update, with one gate [B, 1, D] for text and one for image tokens; in place if overwritable."""
    hidden = overwritable(hidden)
    hidden[:, :text_length].addcmul_(update[:, :text_length], text_gate)
    hidden[:, text_length:].addcmul_(update[:, text_length:], gate)
    return hidden


class TimestepEmbedding(nn.Module):
    """From the sinusoids of a timestep to what the norms read of it."""

    def __init__(self, in_dim: int, dim: int, factory: dict, operations: ModuleType):
        super().__init__()
        self.linear_1 = operations.Linear(in_dim, dim, **factory)
        self.linear_2 = operations.Linear(dim, dim, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, in_dim] -> [B, dim]."""
        return self.linear_2(F.silu(self.linear_1(x)))


class PatchEmbed(nn.Module):
    """Text embeddings and latents to tokens, plus the learned position table if there is one."""

    def __init__(self, config: TransformerConfig, factory: dict, operations: ModuleType):
        super().__init__()
        self.config = config
        patch = config.patch_size
        self.proj = operations.Conv2d(config.in_channels, config.hidden_dim, patch, stride=patch, **factory)
        self.text_proj = operations.Linear(config.text_embed_dim, config.hidden_dim, **factory)
        if config.learned_positions:
            length = config.max_text_length + math.prod(config.base_grid)
            self.pos_embedding = nn.Parameter(torch.empty(1, length, config.hidden_dim, **factory))

    def forward(self, text_embeds: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """text_embeds [B, L, text_embed_dim], latents [B, C, T, H, W] -> text [B, L, D], image [B, T*h*w, D]."""
        text = self.text_proj(text_embeds)
        image = self.proj(rearrange(latents, "b c t h w -> (b t) c h w"))
        grid = (latents.shape[2], *image.shape[-2:])
        image = rearrange(image, "(b t) d h w -> b (t h w) d", t=grid[0])
        if self.config.learned_positions:
            table = self.pos_embedding.to(image)
            text = text + table[:, : text.shape[1]]
            image = image + self._image_positions(table[:, self.config.max_text_length :], grid)
        return text, image

    def _image_positions(self, table, grid):
        """The trained table cut to fewer frames, or resampled for another frame size or more frames.

        The reference has no table for other sizes: it refuses another frame size and replaces the table by an
        untrained sine table for another frame count (diffusers `embeddings.py:749-768`).
        """
        base = self.config.base_grid
        if grid[1:] == base[1:] and grid[0] <= base[0]:
            return table[:, : math.prod(grid)]
        frames, rows, columns = base
        volume = rearrange(table, "b (t h w) d -> b d t h w", t=frames, h=rows, w=columns)
        resampled = F.interpolate(volume.float(), size=grid, mode="trilinear", align_corners=True)
        return rearrange(resampled.to(table), "b d t h w -> b (t h w) d")


class AdaptiveLayerNormZero(nn.Module):
    """Expert adaptive norm: one layer norm, separate shift, scale and gate for text and image tokens."""

    def __init__(self, config: TransformerConfig, factory: dict, operations: ModuleType):
        super().__init__()
        self.linear = operations.Linear(config.time_embed_dim, 6 * config.hidden_dim, **factory)
        self.norm = operations.LayerNorm(config.hidden_dim, eps=1e-5, **factory)

    def forward(
        self, hidden: torch.Tensor, text_length: int, temb: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """hidden [B, L + N, D], temb [B, time_embed_dim] -> modulated tokens, a new tensor, and the gates [B, 1, D] of
        text and image for what comes of them."""
        modulation = self.linear(F.silu(temb)).unsqueeze(1)
        shift, scale, gate, text_shift, text_scale, text_gate = modulation.chunk(6, dim=-1)
        modulated = self.norm(hidden)
        modulate_(modulated[:, :text_length], text_shift, text_scale)
        modulate_(modulated[:, text_length:], shift, scale)
        return modulated, text_gate, gate


class JointAttention(nn.Module):
    """Full attention over text and image tokens; only image tokens are rotated."""

    def __init__(self, config: TransformerConfig, attention: Attention, factory: dict, operations: ModuleType):
        super().__init__()
        dim, bias = config.hidden_dim, config.attention_bias
        self.heads = config.num_heads
        self.attention = attention
        self.to_q = operations.Linear(dim, dim, bias=bias, **factory)
        self.to_k = operations.Linear(dim, dim, bias=bias, **factory)
        self.to_v = operations.Linear(dim, dim, bias=bias, **factory)
        self.to_out = nn.ModuleList([operations.Linear(dim, dim, **factory)])
        self.norm_q = operations.LayerNorm(config.head_dim, eps=1e-6, **factory)
        self.norm_k = operations.LayerNorm(config.head_dim, eps=1e-6, **factory)

    def forward(
        self, hidden: torch.Tensor, text_length: int, rotary: torch.Tensor, transformer_options: dict
    ) -> torch.Tensor:
        """hidden [B, L + N, D], rotary [N, 1, head_dim / 2, 2] of `rotary_table` -> [B, L + N, D]."""
        # The heads stay behind the tokens until the attention: a norm of swapped axes would copy them first.
        q = self.norm_q(self.to_q(hidden).unflatten(-1, (self.heads, -1)))
        rotate_(q[:, text_length:], rotary)
        k = self.norm_k(self.to_k(hidden).unflatten(-1, (self.heads, -1)))
        rotate_(k[:, text_length:], rotary)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), split_heads(self.to_v(hidden), self.heads)
        return self.to_out[0](
            self.attention(q, k, v, self.heads, skip_reshape=True, transformer_options=transformer_options)
        )


class GELUProjection(nn.Module):
    """The first half of the feed-forward; a module of its own for the names of its parameters."""

    def __init__(self, dim: int, ff_dim: int, factory: dict, operations: ModuleType):
        super().__init__()
        self.proj = operations.Linear(dim, ff_dim, **factory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, dim] -> [B, N, ff_dim]."""
        # In place, because nothing in the net is wider; torch.nn.functional has no such form.
        return torch.ops.aten.gelu_(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, ff_dim: int, factory: dict, operations: ModuleType):
        super().__init__()
        # The identity stands where the checkpoint's numbering has a dropout.
        self.net = nn.Sequential(
            GELUProjection(dim, ff_dim, factory, operations),
            nn.Identity(),
            operations.Linear(ff_dim, dim, **factory),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, dim] -> [B, N, dim]."""
        return self.net(x)


class ConsisIDBlock(nn.Module):
    """Attention and feed-forward over text and image tokens together, each with its adaptive norm and gates; and the
    places inside where the identity may enter. Input and output of the block are the caller's."""

    def __init__(self, config: TransformerConfig, attention: Attention, factory: dict, operations: ModuleType):
        super().__init__()
        self.norm1 = AdaptiveLayerNormZero(config, factory, operations)
        self.attn1 = JointAttention(config, attention, factory, operations)
        self.norm2 = AdaptiveLayerNormZero(config, factory, operations)
        self.ff = FeedForward(config.hidden_dim, config.ff_dim, factory, operations)

    def forward(
        self,
        hidden: torch.Tensor,
        text_length: int,
        temb: torch.Tensor,
        rotary: torch.Tensor,
        transformer_options: dict,
        inject: Inject = no_identity,
    ) -> torch.Tensor:
        """hidden [B, L + N, D], temb [B, time_embed_dim] -> hidden, the same tensor where autograd is off."""
        modulated, *gates = self.norm1(hidden, text_length, temb)
        modulated = inject("before_attention", modulated, text_length)
        hidden = add_gated(hidden, text_length, self.attn1(modulated, text_length, rotary, transformer_options), *gates)

        hidden = inject("between", hidden, text_length)
        modulated, *gates = self.norm2(hidden, text_length, temb)
        return add_gated(hidden, text_length, self.ff(modulated), *gates)


class AdaptiveLayerNorm(nn.Module):
    """Layer norm whose shift and scale come of the timestep."""

    def __init__(self, config: TransformerConfig, factory: dict, operations: ModuleType):
        super().__init__()
        self.linear = operations.Linear(config.time_embed_dim, 2 * config.hidden_dim, **factory)
        self.norm = operations.LayerNorm(config.hidden_dim, eps=1e-5, **factory)

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        """x [B, N, D], temb [B, time_embed_dim] -> [B, N, D], a new tensor."""
        shift, scale = self.linear(F.silu(temb)).unsqueeze(1).chunk(2, dim=-1)
        return modulate_(self.norm(x), shift, scale)


class ConsisIDTransformer(nn.Module):
    """Predicts the velocity of noisy video latents from text, image latents and identity tokens."""

    def __init__(
        self,
        config: TransformerConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        operations: ModuleType = nn,
        attention: Attention = scaled_dot_product_attention,
    ):
        """
        Args:
            operations: where the layer classes come from: torch.nn, or ComfyUI's with its casts at use.
            attention: ComfyUI's `optimized_attention`, or torch's.
        """
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.config = config
        self.dtype = dtype
        self.patch_embed = PatchEmbed(config, factory, operations)
        self.time_embedding = TimestepEmbedding(config.hidden_dim, config.time_embed_dim, factory, operations)
        self.transformer_blocks = nn.ModuleList(
            ConsisIDBlock(config, attention, factory, operations) for _ in range(config.num_layers)
        )
        # Run once per face by the Local ID Extractor, never in forward: it depends on nothing but the face.
        self.local_facial_extractor = LocalFacialExtractor(
            config.facial_extractor, attention, operations=operations, **factory
        )
        self.perceiver_cross_attention = nn.ModuleList(
            PerceiverAttention(
                config.hidden_dim,
                config.cross_attn_heads,
                config.cross_attn_head_dim,
                attention,
                context_dim=config.facial_extractor.output_dim,
                operations=operations,
                **factory,
            )
            for _ in range(config.num_layers // config.cross_attn_interval)
        )
        self.norm_final = operations.LayerNorm(config.hidden_dim, eps=1e-5, **factory)
        self.norm_out = AdaptiveLayerNorm(config, factory, operations)
        self.proj_out = operations.Linear(config.hidden_dim, config.patch_size**2 * config.out_channels, **factory)

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        identity_tokens: torch.Tensor | None = None,
        identity_scale: float | torch.Tensor = 1.0,
        transformer_options: dict = {},
        identity_blocks: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """One denoising prediction.

        Args:
            hidden_states: [B, 32, T, H, W] noisy latents and image latents, scaled by 0.7, noise channels first. H and
                W that are no multiple of the patch size are padded and the result is cut back. Image latents are
                taken as zeros if `low_frequency` is off.
            timestep: [B] 0..999.
            encoder_hidden_states: [B, L <= 226, 4096] T5 embeddings.
            identity_tokens: [B, 32, 2048] from `local_facial_extractor`, or None for no high-frequency identity; not
                read if `high_frequency` is off.
            identity_scale: factor on what the identity tokens add (the reference's `local_face_scale`); [B] for one of
                each sample.
            transformer_options: ComfyUI's; `patches_replace["dit"][("double_block", i)]` wraps block i, without what is
                injected at its input or output, `wrappers[BLOCKS_WRAPPER]` wraps the loop over all blocks (see
                `BlockInputs`), and the whole dictionary goes to the attention function.
            identity_blocks: first and last block whose identity attention acts, or None for all.

        Returns:
            The velocity [B, 16, T, H, W].
        """
        if not self.config.low_frequency:
            noisy = hidden_states[:, : self.config.out_channels]
            hidden_states = torch.cat((noisy, torch.zeros_like(hidden_states[:, self.config.out_channels :])), dim=1)
        height, width = hidden_states.shape[-2:]
        patch = self.config.patch_size
        hidden_states = F.pad(hidden_states, (0, -width % patch, 0, -height % patch, 0, 0), mode="replicate")
        grid = (hidden_states.shape[2], hidden_states.shape[3] // patch, hidden_states.shape[4] // patch)

        temb = self.embed_time(timestep, hidden_states.dtype)
        # One tensor of all tokens, so that no layer has to join text and image; both are slices of it.
        hidden = torch.cat(self.patch_embed(encoder_hidden_states, hidden_states), dim=1)
        text_length = encoder_hidden_states.shape[1]
        rotary = rotary_table(grid, self.config.base_grid, self.config.head_dim, device=hidden.device)

        run_blocks = self._run_blocks
        wrappers = transformer_options.get("wrappers", {}).get(BLOCKS_WRAPPER, {})
        for wrapper in reversed([wrapper for group in wrappers.values() for wrapper in group]):
            run_blocks = functools.partial(wrapper, run_blocks)
        hidden = run_blocks(
            BlockInputs(
                hidden, text_length, temb, rotary, identity_tokens, identity_scale, identity_blocks, transformer_options
            )
        )

        velocity = self.proj_out(self.norm_out(self.norm_final(hidden[:, text_length:]), temb))
        frames, rows, columns = grid
        velocity = rearrange(
            velocity, "b (t h w) (c p q) -> b c t (h p) (w q)", t=frames, h=rows, w=columns, p=patch, q=patch
        )
        return velocity[..., :height, :width]

    def embed_time(self, timestep: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What the net reads of timesteps [B] where it computes in this dtype: [B, time_embed_dim]."""
        return self.time_embedding(timestep_embedding(timestep, self.config.hidden_dim).to(dtype))

    def _run_blocks(self, inputs: BlockInputs) -> torch.Tensor:
        hidden, text_length = inputs.hidden, inputs.text_length
        transformer_options = {**inputs.transformer_options, "total_blocks": len(self.transformer_blocks)}
        for i, block in enumerate(self.transformer_blocks):
            transformer_options["block_index"] = i
            inject = self._injection(i, inputs, transformer_options)
            hidden = inject("block_input", hidden, text_length)
            hidden = self._run_block(
                i, block, hidden, text_length, inputs.temb, inputs.rotary, transformer_options, inject
            )
            hidden = inject("block_output", hidden, text_length)
        return hidden

    def _injection(self, index, inputs: BlockInputs, transformer_options) -> Inject:
        """How the identity enters block `index`: the image tokens attend its tokens and add what they find."""
        tokens, scale = inputs.identity_tokens, inputs.identity_scale
        number, rest = divmod(index, self.config.cross_attn_interval)
        if tokens is None or rest or not self.config.high_frequency:
            return no_identity
        if inputs.identity_blocks and not inputs.identity_blocks[0] <= index <= inputs.identity_blocks[1]:
            return no_identity
        face_attention = self.perceiver_cross_attention[number]

        def inject(place, hidden, text_length):
            if place != self.config.injection:
                return hidden
            image = hidden[:, text_length:]
            hidden = overwritable(hidden)
            found = face_attention(tokens, image, {**transformer_options, "identity_attention": True})
            if isinstance(scale, torch.Tensor):
                hidden[:, text_length:].addcmul_(found, scale.to(found).view(-1, 1, 1))
            else:
                hidden[:, text_length:].add_(found, alpha=scale)
            return hidden

        return inject

    def _run_block(self, index, block, hidden, text_length, temb, rotary, transformer_options, inject):
        replacement = transformer_options.get("patches_replace", {}).get("dit", {}).get(("double_block", index))
        if replacement is None:
            return block(hidden, text_length, temb, rotary, transformer_options, inject)

        # Joined anew before and after, so that what a patch keeps of its inputs and outputs is never overwritten.
        def original_block(args):
            text_length = args["txt"].shape[1]
            hidden = torch.cat((args["txt"], args["img"]), dim=1)
            hidden = block(hidden, text_length, args["vec"], args["pe"], args["transformer_options"], inject)
            return {"img": hidden[:, text_length:], "txt": hidden[:, :text_length]}

        args = {
            "img": hidden[:, text_length:],
            "txt": hidden[:, :text_length],
            "vec": temb,
            "pe": rotary,
            "transformer_options": transformer_options,
        }
        out = replacement(args, {"original_block": original_block})
        return torch.cat((out["txt"], out["img"]), dim=1)
