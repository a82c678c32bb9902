"""A VAE's decoder on several processes, each with some rows of all frames.

By rows, because by frames each convolution would hand two whole frames to the next process instead of a row of each,
which would wait for them, and memory would not shrink. The causal convolutions keep the two frames before with the
rows beside theirs, so that seams are as those of one process. Group norms run over whole frames: their statistics are
joined.
"""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.distributed as dist

from ...model.vae import CogVideoXVAE, Pass
from .layout import shares
from .processes import gather


def decode_rows(vae: CogVideoXVAE, latents: torch.Tensor) -> torch.Tensor:
    """Decode a video with all processes.

    Args:
        vae: on the device that computes.
        latents: unscaled [B, 16, T, h, w], the same in all processes; h at least their number.

    Returns:
        [B, 3, 4T-3, 8h, 8w], in all of them.
    """
    sizes = shares(latents.shape[3], dist.get_world_size())
    own = latents.split(sizes, dim=3)[dist.get_rank()]
    return gather(vae.decode(own, RowsPass()), [8 * size for size in sizes], dim=3)


class RowsPass(Pass):
    """Of the rows of this process; those above are the process's before, those below the next one's."""

    def __init__(self) -> None:
        super().__init__()
        rank, count = dist.get_rank(), dist.get_world_size()
        self.above = rank - 1 if rank else None
        self.below = rank + 1 if rank + 1 < count else None

    def widened(self, pieces: list[torch.Tensor]) -> tuple[list[torch.Tensor], int]:
        """As of `Pass`."""
        edges = {self.above: slice(0, 1), self.below: slice(-1, None)}
        transfers, arriving = [], {}
        for neighbour, rows in edges.items():
            if neighbour is None:
                continue
            edge = torch.cat([piece[:, :, :, rows] for piece in pieces], dim=2)
            arriving[neighbour] = torch.empty_like(edge)
            transfers.append(dist.P2POp(dist.isend, edge, neighbour))
            transfers.append(dist.P2POp(dist.irecv, arriving[neighbour], neighbour))
        for transfer in dist.batch_isend_irecv(transfers) if transfers else ():
            transfer.wait()
        widened = []
        for start in accumulate((piece.shape[2] for piece in pieces[:-1]), initial=0):
            piece = pieces.pop(0)
            frames = slice(start, start + piece.shape[2])
            top, bottom = (
                arriving[edge][:, :, frames] if edge in arriving else None for edge in (self.above, self.below)
            )
            widened.append(torch.cat([part for part in (top, piece, bottom) if part is not None], dim=3))
        return widened, 0 if self.above is None else 1

    def statistics(self, pieces: list[torch.Tensor], groups: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As of `Pass`."""
        frames = [frame for piece in pieces for frame in piece.unbind(2)]
        # By frame, so that no copy of all of them is made; each has as many values as the others.
        moments = [
            torch.var_mean(frame.unflatten(1, (groups, -1)).float(), (2, 3, 4), correction=0) for frame in frames
        ]
        own = torch.stack([torch.stack(pair) for pair in moments])
        own = torch.cat((own.flatten(), own.new_tensor([frames[0].shape[2]])))
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        parts = torch.stack(parts)
        weights = parts[:, -1] / (parts[:, -1].sum() * len(frames))
        variances, means = parts[:, :-1].unflatten(1, (len(frames), 2, len(frames[0]), groups)).unbind(2)
        weights = weights[:, None, None, None]
        mean = (weights * means).sum((0, 1))
        return mean, (weights * (variances + (means - mean) ** 2)).sum((0, 1))
