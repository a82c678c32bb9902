"""Tokens first: image tower and facial extractor learn what a face is before the transformer reads it.

Left to the transformer's loss alone, the 32 tokens collapse to one large constant. So a small reader, which asks the
tokens as the transformer's image tokens will, has to tell from the tokens of one photo: the latents of another photo of
the person, the recogniser's embedding of that, and what the renderer knows of the person.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .code import CHANNELS, LinearCode
from .nets import EMBEDDING, Identity, Sizes
from .pool import Pool, pixels
from .shelf import FACTS
from .stage import Task, warmed

_PATCH = 2
_REFRESH = 20
_CONTRAST = 20.0
"""Inverse temperature of the comparison of embeddings."""


class Reader(nn.Module):
    """Places of a picture that ask the tokens."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.token_width
        self.side = sizes.latent // _PATCH
        self.places = nn.Parameter(torch.randn(1, self.side**2, width) * 0.5)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.middle = self._layers(width, width)
        self.latents = self._layers(width, CHANNELS * _PATCH**2)
        self.embedding = nn.Linear(width, EMBEDDING)
        self.facts = nn.Linear(width, FACTS)

    @staticmethod
    def _layers(width, out):
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, out))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[B, 32, token_width] -> latents [B, 16, h, w], embedding [B, 512], facts [B, 64]."""
        keys = self.norm(tokens)
        places = self.places.expand(len(tokens), -1, -1)
        found = places + self.attention(places, keys, keys)[0]
        found = found + self.middle(found)
        cells = self.latents(found).unflatten(1, (self.side, self.side)).unflatten(-1, (CHANNELS, _PATCH, _PATCH))
        latents = cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        mean = keys.mean(1)
        return latents, self.embedding(mean), self.facts(mean)


class IdentityAndReader(nn.Module):
    """What the stage trains; the reader is thrown away after it."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.identity = Identity(sizes)
        self.reader = Reader(sizes)

    def forward(self, embedding, grey):
        """As `Identity`, with what the reader says of the tokens."""
        tokens = self.identity(embedding, grey)
        return tokens, *self.reader(tokens)


class IdentityTask(Task):
    """The stage `identity`; the stage `denoiser` goes on with it for a while, then the tokens stay as they are."""

    name = "identity"

    def __init__(
        self, sizes: Sizes, pool: Pool, code: LinearCode, device: str, seed: int = 0, batch: int = 128
    ) -> None:
        torch.manual_seed(seed)
        super().__init__(IdentityAndReader(sizes), device, rate=1e-3, betas=(0.9, 0.98), decay=0.995)
        self.pool, self.code, self.batch = pool, code, batch
        self.rng = np.random.default_rng(seed)

    def step(self, part: float) -> None:
        """As `Task.step`."""
        pool = self.pool
        if self.updates % _REFRESH == 0:
            pool.refresh()
        count = min(self.batch, len(pool.people))
        people = torch.from_numpy(self.rng.choice(np.array(pool.people), count, replace=False)).to(self.device)
        one, other = pool.two_references(count, self.rng)
        grey, target = pool.grey[people, one].float(), pixels(pool.reference[people, other])
        if self.rng.random() < 0.5:
            grey, target = grey.flip(-1), target.flip(-1)
        embedding = pool.embedding[people, one]
        with self.precision():
            tokens, latents, told, facts = self.net(_as_if_of_another_photo(embedding), _other_exposure(grey))
        losses = (
            (latents.float() - self.code.encode_pictures(target)).square().mean(),
            0.1 * self._contrast(told.float(), pool.embedding[people, other]),
            0.3 * (facts.float() - pool.facts[people]).square().mean(),
            0.01 * (tokens.float().square().mean() - 1).clamp(min=0),  # Their size stays near 1.
        )
        self.update(sum(losses), warmed(self.updates, 100) * (1 if part < 0.7 else 0.3))

    def _contrast(self, told, embeddings):
        """Each told embedding against those of all people of the batch."""
        alike = F.normalize(told, dim=-1) @ F.normalize(embeddings, dim=-1).T
        return F.cross_entropy(_CONTRAST * alike, torch.arange(len(told), device=told.device))

    @torch.no_grad()
    def report(self) -> str:
        """As `Task.report`: the first photo read, against the second one of the person and of others."""
        pool = self.pool
        people = torch.tensor(pool.held_people, device=self.device)
        with self.precision():
            tokens, latents, told, facts = self.averaged(pool.embedding[people, 0], pool.grey[people, 0])
        target = self.code.encode_pictures(pixels(pool.reference[people, 1]))
        own, other = ((latents.float() - x).square().mean() for x in (target, target.roll(1, 0)))
        alike = F.normalize(told.float(), dim=-1) @ F.normalize(pool.embedding[people, 1], dim=-1).T
        found = (alike.argmax(1) == torch.arange(len(people), device=self.device)).float().mean()
        between = tokens.float().std(0).square().mean().sqrt() if len(people) > 1 else torch.zeros(())
        size = tokens.float().square().mean().sqrt()
        return (
            f"latents of the own photo {own:.3f}, of another's {other:.3f}; found {found:.2f} of {len(people)}; facts "
            f"{(facts.float() - pool.facts[people]).square().mean():.3f}; tokens {size:.2f}, between "
            f"people {between:.3f}"
        )

    @torch.no_grad()
    def tokens(self, embedding: torch.Tensor, grey: torch.Tensor) -> torch.Tensor:
        """[B, 32, token_width] by the averaged weights. Arguments as of `Identity`."""
        identity = self.averaged.identity
        parts = zip(embedding.split(512), grey.split(512), strict=True)
        with self.precision():
            return torch.cat([identity(one, picture).float() for one, picture in parts])


def identity_of(state: dict, sizes: Sizes) -> Identity:
    """The stage's result.

    Args:
        state: its checkpoint, or one of weights alone.
        sizes: of the nets.
    """
    net = Identity(sizes)
    weights = {name: x for name, x in state["averaged"].items() if name.startswith("identity.")}
    net.load_state_dict({name.removeprefix("identity."): x for name, x in weights.items()})
    return net.eval().requires_grad_(False)


def _as_if_of_another_photo(embedding):
    """As the recogniser might give it: of another length, and a little aside."""
    length = 1 + 0.05 * torch.randn(len(embedding), 1, device=embedding.device)
    return embedding * length + 0.15 * embedding.std(-1, keepdim=True) * torch.randn_like(embedding)


def _other_exposure(grey):
    gamma = torch.exp(torch.randn(len(grey), 1, 1, device=grey.device) * 0.15)
    return (grey / 255) ** gamma * 255
