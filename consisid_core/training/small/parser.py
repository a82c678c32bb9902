"""The face parser: BiSeNet, narrow, on label maps that the renderer drew, with backgrounds that it did not."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ...face.align import FACE_SIZE
from ...face.parsing import WHITENED_LABELS, BiSeNet, normalized
from .nets import Sizes
from .shelf import CROP, HELD_OUT, Shelf
from .stage import Task, warmed

_HELD_CROPS = 24


class ParserTask(Task):
    """The stage `parser`."""

    name = "parser"

    def __init__(self, sizes: Sizes, shelf: Shelf, device: str, seed: int = 0, batch: int = 48) -> None:
        torch.manual_seed(seed)
        super().__init__(BiSeNet(width=sizes.parser_width), device, rate=4e-3, betas=(0.9, 0.999), decay=0.99)
        self.shelf, self.batch = shelf, batch
        self.rng = np.random.default_rng(seed)

    def step(self, part: float) -> None:
        """As `Task.step`."""
        pictures, labels = self._read(self._places(self.batch))
        pictures, labels = as_photographed(pictures, labels)
        with self.precision():
            logits = self.net(_prepared(pictures))
        logits = F.interpolate(logits.float(), size=(CROP, CROP), mode="bilinear")
        loss = F.cross_entropy(logits, labels, label_smoothing=0.02)
        self.update(loss, warmed(self.updates, 20) * max(0.02, 1 - part))

    @torch.no_grad()
    def report(self) -> str:
        """As `Task.report`."""
        held = min(HELD_OUT, int(self.shelf.counts[:, 0].min()))
        rows = self.shelf.extent.rows
        places = [(row, number) for number in range(held) for row in range(rows)][:_HELD_CROPS]
        pictures, labels = self._read(places)
        found = self.averaged(_prepared(pictures)).argmax(1)[:, ::2, ::2]
        away = torch.tensor(WHITENED_LABELS, device=self.device)
        kept, wanted = ~torch.isin(found, away), ~torch.isin(labels, away)
        overlap = (kept & wanted).sum() / (kept | wanted).sum().clamp(min=1)
        return f"IoU of what is kept {overlap:.3f}, labels right {(found == labels).float().mean():.3f}"

    def _places(self, count):
        """Rows and people to learn from."""
        people = np.array(self.shelf.counts[:, 0])
        rows = self.rng.choice(np.flatnonzero(people > HELD_OUT), count)
        return [(row, int(self.rng.integers(HELD_OUT, people[row]))) for row in rows]

    def _read(self, places):
        """Pictures [B, 3, 256, 256] 0..1 and labels [B, 256, 256]."""
        pictures = np.stack([self.shelf.crop[place] for place in places])
        labels = np.stack([self.shelf.crop_labels[place] for place in places])
        return (
            torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2).float() / 255,
            torch.from_numpy(labels).to(self.device).long(),
        )


def as_photographed(pictures: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Other backgrounds, places, light, colours, sharpness and grain, so that a real photo lies among the pictures.

    Args:
        pictures: [B, 3, H, H] in 0..1; labels: [B, H, H] of them.
    """
    count, device = len(pictures), pictures.device

    def chance(*shape):
        return torch.rand(count, *shape, 1, 1, device=device)

    def spread(size, channels=1):
        return torch.randn(count, channels, 1, 1, device=device) * size

    behind = F.avg_pool2d((labels == 0).float().unsqueeze(1), 3, 1, 1) * (chance(1) < 0.7)
    pictures = pictures + (_textures(count, device) - pictures) * behind
    pictures, labels = _moved(pictures, labels)
    pictures = pictures.clamp(0, 1) ** spread(0.3).exp() * spread(0.12, 3).exp() + spread(0.05)
    pictures = pictures + (F.avg_pool2d(pictures, 3, 1, 1) - pictures) * chance(1)
    grey = pictures.mean(1, keepdim=True)
    pictures = grey + (pictures - grey) * (0.3 + chance(1))
    pictures = pictures + 0.05 * chance(1) * torch.randn_like(pictures)
    return pictures.clamp(0, 1), labels


def _textures(count, device):
    """Pictures of nothing: noise of several sizes in random colours."""
    sizes = {2: 1.0, 5: 0.8, 16: 0.5, 64: 0.25, CROP: 0.15}
    texture = sum(
        weight * F.interpolate(torch.rand(count, 3, size, size, device=device), (CROP, CROP), mode="bilinear")
        for size, weight in sizes.items()
    )
    contrast, brightness = torch.rand(2, count, 1, 1, 1, device=device)
    return ((texture - texture.mean((2, 3), keepdim=True)) * (0.3 + contrast) + 0.9 * brightness).clamp(0, 1)


def _moved(pictures, labels):
    """A little turned, nearer or farther, aside, some mirrored; grey comes in at the border."""
    count, device = len(pictures), pictures.device
    angle, zoom = torch.randn(2, count, device=device) * 0.1
    zoom, mirror = zoom.exp(), torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    shift = torch.randn(2, count, device=device) * 0.06
    rows = (
        mirror * zoom * angle.cos(), -zoom * angle.sin(), shift[0],
        mirror * zoom * angle.sin(), zoom * angle.cos(), shift[1],
    )  # fmt: skip
    grid = F.affine_grid(torch.stack(rows, dim=1).unflatten(1, (2, 3)), pictures.shape, align_corners=False)
    pictures = F.grid_sample(pictures - 0.52, grid, align_corners=False) + 0.52
    labels = F.grid_sample(labels.float().unsqueeze(1), grid, mode="nearest", align_corners=False)
    return pictures, labels.squeeze(1).long()


def _prepared(pictures):
    """As the parser is run, at the size of the face path's crop."""
    return normalized(F.interpolate(pictures, size=(FACE_SIZE, FACE_SIZE), mode="bilinear"))
