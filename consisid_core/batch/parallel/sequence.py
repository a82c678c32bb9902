"""The tokens of one forward pass on several processes: Ulysses, ring attention, and both at once.

Each process runs all blocks on its share of the tokens, text before image. Only joint attention needs the others'.
Within a Ulysses group (DeepSpeed-Ulysses, arXiv 2309.14509) an all-to-all gives each process all tokens of the group
for its part of the heads; keys and values of the groups travel round a ring (Ring Attention, arXiv 2310.01889), and the
partial softmaxes are summed by their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.distributed as dist
from einops import rearrange
from torch.distributed.device_mesh import DeviceMesh

from ...model.attention import scaled_dot_product_attention
from ...model.transformer import BLOCKS_WRAPPER, BlockInputs
from .layout import shares
from .processes import gather

_SHARES = "consisid_shares"
"""Key of transformer_options: the numbers of tokens of all processes, in order. Without it attention is local."""


class SequenceParallel:
    """A net's attention function, and a wrapper around its block loop, that share a sequence."""

    def __init__(self, mesh: DeviceMesh) -> None:
        """
        Args:
            mesh: of `processes.join_mesh`.
        """
        self.ring, self.ulysses = mesh["ring"], mesh["ulysses"]
        self.index = self.ring.get_local_rank() * self.ulysses.size() + self.ulysses.get_local_rank()

    @property
    def transformer_options(self) -> dict:
        """What makes a forward pass share its sequence."""
        return {"wrappers": {BLOCKS_WRAPPER: {"sequence_parallel": [self.run_share]}}}

    def run_share(self, run_blocks: Callable[[BlockInputs], torch.Tensor], inputs: BlockInputs) -> torch.Tensor:
        """Run the blocks on this process's tokens; a wrapper as of `BlockInputs`. Returns those of all processes."""
        sizes = shares(inputs.hidden.shape[1], self.ring.size() * self.ulysses.size())
        start = sum(sizes[: self.index])
        stop = start + sizes[self.index]
        text = min(stop, inputs.text_length) - min(start, inputs.text_length)
        image = slice(max(0, start - inputs.text_length), max(0, stop - inputs.text_length))
        own = replace(
            inputs,
            hidden=inputs.hidden[:, start:stop],
            text_length=text,
            rotary=inputs.rotary[image],
            transformer_options={**inputs.transformer_options, _SHARES: sizes},
        )
        per_group = self._grouped(sizes)
        hidden = gather(run_blocks(own), per_group[self.ring.get_local_rank()], 1, self.ulysses.get_group())
        return gather(hidden, [sum(group) for group in per_group], 1, self.ring.get_group())

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        skip_reshape: bool = True,
        transformer_options: dict | None = None,
    ) -> torch.Tensor:
        """As `model.attention.scaled_dot_product_attention`, with the keys of all shares where it is joint attention.

        Identity attention has its few keys everywhere, so it needs nobody.
        """
        options = transformer_options or {}
        if _SHARES not in options or options.get("identity_attention"):
            return scaled_dot_product_attention(q, k, v, heads)
        per_group = self._grouped(options[_SHARES])
        own_group = per_group[self.ring.get_local_rank()]
        if self.ulysses.size() > 1:
            q, k, v = _heads_for_tokens(torch.stack((q, k, v)), own_group, self.ulysses.get_group())
        if self.ring.size() > 1:
            out = ring_attention(q, k, v, [sum(group) for group in per_group], self.ring)
        else:
            out = scaled_dot_product_attention(q, k, v, heads)
        if self.ulysses.size() > 1:
            out = _tokens_for_heads(out, own_group, self.ulysses)
        return out

    def _grouped(self, sizes):
        """Sizes of the shares of each Ulysses group."""
        width = self.ulysses.size()
        return [sizes[i : i + width] for i in range(0, len(sizes), width)]


def _heads_for_tokens(qkv, sizes, group):
    """[3, B, H, own tokens, D] -> [3, B, H / n, all tokens of the group, D]."""
    sent = rearrange(qkv, "s b (n h) l d -> (n l) h s b d", n=len(sizes)).contiguous()
    received = sent.new_empty(sum(sizes), *sent.shape[1:])
    dist.all_to_all_single(received, sent, sizes, [qkv.shape[3]] * len(sizes), group)
    return rearrange(received, "l h s b d -> s b h l d")


def _tokens_for_heads(out, sizes, mesh):
    """[B, all tokens of the group, own heads * D] -> [B, own tokens, H * D]."""
    own = sizes[mesh.get_local_rank()]
    sent = rearrange(out, "b l d -> l b d").contiguous()
    received = sent.new_empty(len(sizes) * own, *sent.shape[1:])
    dist.all_to_all_single(received, sent, [own] * len(sizes), sizes, mesh.get_group())
    return rearrange(received, "(n l) b d -> b l (n d)", n=len(sizes))


def ring_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sizes: list[int], mesh: DeviceMesh
) -> torch.Tensor:
    """Attention of own queries to the keys of all processes of a ring. While one part is attended the next arrives.

    Args:
        q, k, v: [B, H, own tokens, D].
        sizes: numbers of keys of all of them.
        mesh: one-dimensional.

    Returns:
        [B, own tokens, H * D].
    """
    count, index, group = mesh.size(), mesh.get_local_rank(), mesh.get_group()
    following, preceding = (dist.get_global_rank(group, (index + by) % count) for by in (1, -1))
    keys_values = torch.stack((k, v)).contiguous()
    total = log_sum = None
    for step in range(count):
        if step + 1 < count:
            size = sizes[(index - step - 1) % count]
            arriving = keys_values.new_empty(*keys_values.shape[:3], size, keys_values.shape[4])
            transfers = dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, keys_values, following, group),
                    dist.P2POp(dist.irecv, arriving, preceding, group),
                ]
            )
        part, part_log_sum = _attention_with_log_sum(q, *keys_values)
        if total is None:
            total, log_sum = part.float(), part_log_sum
        else:
            together = torch.logaddexp(log_sum, part_log_sum)
            total.mul_(torch.exp(log_sum - together)).addcmul_(part.float(), torch.exp(part_log_sum - together))
            log_sum = together
        if step + 1 < count:
            for transfer in transfers:
                transfer.wait()
            keys_values = arriving
    return rearrange(total.to(q.dtype), "b h l d -> b l (h d)")


def _attention_with_log_sum(q, k, v):
    """(attention [B, H, L, D], logarithm of the sum of exponentials [B, H, L, 1] float32)."""
    if q.device.type == "cuda":
        out, log_sum, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=1 / math.sqrt(q.shape[-1]))
    else:
        out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    return out, log_sum.float().unsqueeze(-1)


def split_guidance(mesh: DeviceMesh) -> Callable[[Callable, list[torch.Tensor]], list[torch.Tensor]]:
    """`training.sample.Branches` of a layout: each half of the processes evaluates one text.

    Args:
        mesh: of `processes.join_mesh`.
    """
    halves = mesh["cfg"]

    def branches(predict, texts):
        if halves.size() == 1 or len(texts) == 1:
            return [predict(text) for text in texts]
        own = predict(texts[halves.get_local_rank()]).contiguous()
        velocities = [torch.empty_like(own) for _ in texts]
        dist.all_gather(velocities, own, halves.get_group())
        return velocities

    return branches
