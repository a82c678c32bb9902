"""The VAE learns the fixed linear code: its encoder to give it, its decoder to show more in it than a linear one can.

Taught end to end, the same time gives 8 dB less. First on single pictures with 2-D kernels, then, from those, on clips.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from ...model.vae import CogVideoXVAE
from ..diffusion import LATENT_SCALE
from .code import LinearCode
from .nets import Sizes
from .pool import Pool, pixels
from .stage import Task, warmed
from .vae_twin import Twin, inflated, planar

_OWN_LATENTS, _LATENT_NOISE = 0.5, 0.05
"""Half of what is decoded comes of the VAE's own encoder; a little noise, as the transformer's latents have."""
_OWN_FROM = 200
"""Updates before which the encoder gives nothing worth decoding."""
_HELD_CLIPS = 8
_FACE_WEIGHT, _REST_WEIGHT = 2.0, 0.7
_REFRESH = 20


class _Weights(nn.Module):
    """Parameters by the names of the class, in which dots may not stand."""

    def __init__(self, tensors):
        super().__init__()
        self.names = list(tensors)
        self.tensors = nn.ParameterList(tensors.values())

    def twin(self):
        """The passes with these weights."""
        return Twin(dict(zip(self.names, self.tensors, strict=True)))


class _AutoencoderTask(Task):
    """What both stages share."""

    planar: bool

    def __init__(self, weights, pool: Pool, code: LinearCode, device: str, rate: float, seed: int, batch: int) -> None:
        torch.manual_seed(seed)
        super().__init__(_Weights(weights), device, rate=rate, betas=(0.9, 0.95), decay=0.99)
        self.pool, self.code, self.batch = pool, code, batch
        self.rng = np.random.default_rng(seed)

    def step(self, part: float) -> None:
        """As `Task.step`."""
        if self.updates % _REFRESH == 0:
            self.pool.refresh()
        pictures, weight = self._draw()
        latents = self._encode(pictures)
        twin = self.net.twin()
        with self.precision():
            own = twin.encode(pictures) * LATENT_SCALE
            shape = (len(pictures), *[1] * (latents.ndim - 1))
            takes_own = torch.rand(shape, device=self.device) < _OWN_LATENTS
            if self.planar and self.updates < _OWN_FROM:
                takes_own = torch.zeros_like(takes_own)
            given = torch.where(takes_own, own.detach().float(), latents)
            shown = twin.decode((given + _LATENT_NOISE * torch.randn_like(given)) / LATENT_SCALE)
        shown, own = shown.float(), own.float()
        # In pixels an error of a component counts by what it changes: divided by its scale.
        scale = self.code.scale.view(1, -1, *[1] * (latents.ndim - 2))
        wrong = (own - latents) / scale / len(self.code.mean) ** 0.5
        loss = (
            ((shown - pictures).abs().mean(1) * weight).mean()
            + 0.5 * (shown - pictures).square().mean()
            + 0.5 * sum((a - b).abs().mean() for a, b in zip(_edges(shown), _edges(pictures), strict=True))
            + 4 * (wrong.square().sum(1).mean() + 0.1 * wrong.abs().sum(1).mean())
        )
        down = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * part))
        self.update(loss, warmed(self.updates, 60) * down)

    @torch.no_grad()
    def report(self) -> str:
        """As `Task.report`: decibels on held-out clips."""
        clips = torch.tensor(self.pool.held_clips[:_HELD_CLIPS], device=self.device)
        pictures = self._pictures(pixels(self.pool.clip[clips]).transpose(1, 2))
        latents, twin = self._encode(pictures), self.averaged.twin()
        linear = (self.code.decode_pictures if self.planar else self.code.decode)(latents)
        with self.precision():
            decoded = twin.decode(latents / LATENT_SCALE).float()
            both = twin.decode(twin.encode(pictures)).float()
        figures = (psnr(shown, pictures) for shown in (linear, decoded, both))
        return "linear code {:.2f} dB, decoder on it {:.2f} dB, encoder and decoder {:.2f} dB".format(*figures)

    def _draw(self):
        """Pictures or videos in -1..1, some mirrored or in another light, and a weight [B, ...] of each pixel."""
        clips = self.pool.some(self.pool.clips, self.batch, self.rng)
        videos = pixels(self.pool.clip[clips]).transpose(1, 2)
        face = self.pool.face[clips].float()
        face = torch.cat((face[:, :1], face[:, 1:].repeat_interleave(4, 1)), dim=1)
        weight = _REST_WEIGHT + (_FACE_WEIGHT - _REST_WEIGHT) * face.repeat_interleave(8, -1).repeat_interleave(8, -2)
        if self.planar:
            frame = torch.from_numpy(self.rng.integers(0, videos.shape[2], len(videos))).to(self.device)
            every = torch.arange(len(videos), device=self.device)
            videos, weight = videos[every, :, frame], weight[every, frame]
        if self.rng.random() < 0.5:
            videos, weight = videos.flip(-1), weight.flip(-1)
        if self.rng.random() < 0.3:
            shape = (len(videos), *[1] * (videos.ndim - 1))
            gamma = torch.exp(0.12 * torch.randn(shape, device=self.device))
            videos = ((videos + 1) / 2) ** gamma * 2 - 1
        return videos.contiguous(), weight

    def _encode(self, pictures):
        return (self.code.encode_pictures if self.planar else self.code.encode)(pictures)

    def _pictures(self, videos):
        return videos[:, :, ::8].transpose(1, 2).flatten(0, 1) if self.planar else videos


class PictureTask(_AutoencoderTask):
    """The stage `pictures`: the planar form on single frames."""

    name = "pictures"
    planar = True

    def __init__(self, sizes: Sizes, pool: Pool, code: LinearCode, device: str, seed: int = 0, batch: int = 64) -> None:
        torch.manual_seed(seed)
        weights = planar(beginning(CogVideoXVAE(sizes.vae_widths, 1).state_dict()))
        super().__init__(weights, pool, code, device, rate=1.5e-3, seed=seed, batch=batch)


class VideoTask(_AutoencoderTask):
    """The stage `videos`: the class's own weights on clips."""

    name = "videos"
    planar = False

    def __init__(
        self,
        sizes: Sizes,
        flat: dict,
        pool: Pool,
        code: LinearCode,
        device: str,
        seed: int = 0,
        batch: int = 4,
    ) -> None:
        """
        Args:
            flat: the checkpoint of the stage `pictures`.
        """
        with torch.device("meta"):
            shapes = CogVideoXVAE(sizes.vae_widths, 1).state_dict()
        weights = inflated(
            by_name(flat["averaged"], shapes), {name: torch.zeros(x.shape) for name, x in shapes.items()}
        )
        super().__init__(weights, pool, code, device, rate=4e-4, seed=seed, batch=batch)


def by_name(stored: dict[str, torch.Tensor], names) -> dict[str, torch.Tensor]:
    """Parameters of the class.

    Args:
        stored: of a checkpoint of these stages.
        names: of the class, in its order.
    """
    return {name: stored[f"tensors.{number}"] for number, name in enumerate(names)}


@torch.no_grad()
def beginning(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In place: residual branches small, norms that know the latents almost as plain ones."""
    for name, x in state_dict.items():
        if name.endswith("conv2.conv.weight"):
            x.mul_(0.1)
        elif ".conv_y.conv." in name or ".conv_b.conv." in name:
            if name.endswith("weight"):
                x.mul_(0.2)
            else:
                x.fill_(1.0 if ".conv_y." in name else 0.0)
    return state_dict


def psnr(shown: torch.Tensor, pictures: torch.Tensor) -> float:
    """Mean over the batch, in decibels; values -1..1."""
    errors = (shown.clamp(-1, 1) - pictures).square().flatten(1).mean(1)
    return float((-10 * (errors / 4).log10()).mean())


def _edges(x):
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
