"""A linear space-time code of the VAE's shape: 16 principal components of blocks of 4 frames by 8x8 pixels.

It needs no training, so the transformer learns on its latents from the first minute, and the VAE's encoder and decoder
learn to speak it (`autoencoder`). As in CogVideoX's VAE the first frame has a latent of its own: it counts as four
equal frames. Latents are scaled, as the transformer takes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

CHANNELS = 16
_TIME, _SPACE = 4, 8
_STILL_SHARE = 0.2
"""Of still pictures among the blocks that the components are fitted to."""


@dataclass(frozen=True)
class LinearCode:
    """Encoder and decoder."""

    mean: torch.Tensor
    """[768] of the blocks."""
    basis: torch.Tensor
    """[768, 16] orthonormal."""
    scale: torch.Tensor
    """[16] on each component, so that the latents' mean square is 1."""

    @classmethod
    def fit(cls, videos: torch.Tensor) -> LinearCode:
        """Principal components of [N, 3, 4n+1, H, W] in -1..1, with more weight on the smaller ones than their size
        gives them, or the transformer would see little but brightness."""
        frames = videos.transpose(1, 2)
        moving = _blocks(frames[:, 1:], _TIME).flatten(0, 3)
        still = _blocks(frames[:, ::_TIME], 1).flatten(0, 3).repeat(1, _TIME)
        mean = torch.cat((moving, still)).mean(0)
        covariance = sum(
            share * torch.cov((part - mean).T.double(), correction=0)
            for part, share in ((moving, 1 - _STILL_SHARE), (still, _STILL_SHARE))
        )
        values, vectors = torch.linalg.eigh(covariance)
        spread = values.flip(0)[:CHANNELS].clamp(min=1e-8).sqrt().float()
        scale = spread**-0.75
        scale = scale / (spread * scale).square().mean().sqrt()
        return cls(mean, vectors.flip(1)[:, :CHANNELS].float().contiguous(), scale)

    def to(self, device: torch.device | str) -> LinearCode:
        """The same on a device."""
        return LinearCode(self.mean.to(device), self.basis.to(device), self.scale.to(device))

    def encode(self, videos: torch.Tensor) -> torch.Tensor:
        """[N, 3, 4n+1, H, W] in -1..1 -> [N, 16, n+1, H/8, W/8]."""
        frames = videos.transpose(1, 2)
        frames = torch.cat((frames[:, :1].expand(-1, _TIME, -1, -1, -1), frames[:, 1:]), dim=1)
        return ((_blocks(frames, _TIME) - self.mean) @ self.basis * self.scale).movedim(-1, 1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[N, 16, n+1, h, w] -> [N, 3, 4n+1, 8h, 8w]."""
        frames = self.decode_groups(latents).flatten(1, 2)
        first = frames[:, :_TIME].mean(1, keepdim=True)
        return torch.cat((first, frames[:, _TIME:]), dim=1).transpose(1, 2)

    def decode_groups(self, latents: torch.Tensor) -> torch.Tensor:
        """The four frames of each latent frame: [N, 16, T, h, w] -> [N, T, 4, 3, 8h, 8w]."""
        blocks = latents.movedim(1, -1) / self.scale @ self.basis.T + self.mean
        blocks = blocks.unflatten(-1, (_TIME, 3, _SPACE, _SPACE))  # [N, T, h, w, 4, 3, 8, 8]
        return blocks.permute(0, 1, 4, 5, 2, 6, 3, 7).flatten(-4, -3).flatten(-2)

    def encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] in -1..1 -> [N, 16, H/8, W/8]."""
        return self.encode(pictures.unsqueeze(2)).squeeze(2)

    def decode_pictures(self, latents: torch.Tensor) -> torch.Tensor:
        """[N, 16, h, w] -> [N, 3, 8h, 8w]."""
        return self.decode(latents.unsqueeze(2)).squeeze(2)


def _blocks(frames, time):
    """[N, T, 3, H, W] -> [N, T / time, H / 8, W / 8, time * 192]."""
    cells = frames.unflatten(4, (-1, _SPACE)).unflatten(3, (-1, _SPACE)).unflatten(1, (-1, time))
    return cells.permute(0, 1, 4, 6, 2, 3, 5, 7).flatten(4)
