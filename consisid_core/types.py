"""The three values that travel on ConsisID's own wires. Scripts may build them by hand."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch


class _Tensors:
    """A value of tensors: equal to another of its kind whose tensors have the same shapes and numbers.

    Not hashable, as lists are not: tensors can be written into. ComfyUI's caches hash what goes into a node's widgets
    and the links between nodes, never what comes out of one.
    """

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return all(torch.equal(one.cpu(), another.cpu()) for one, another in pairs)


@dataclass(frozen=True, eq=False)
class Face(_Tensors):
    """The chosen face in each of B photos of one person, as the two identity halves need it.

    All tensors are float32 on the CPU.
    """

    embedding: torch.Tensor
    """[B, 512] raw recogniser output (not normalised)."""
    landmarks: torch.Tensor
    """[B, 5, 2] left eye, right eye, nose, left and right mouth corner (x, y), in pixels of the photo."""
    bbox: torch.Tensor
    """[B, 4] x1, y1, x2, y2 in pixels of the photo."""
    score: torch.Tensor
    """[B] detector confidence, 0..1."""
    image: torch.Tensor
    """[B, 512, 512, 3] aligned colour crop as the VAE sees it, RGB 0..1, background white unless kept."""
    gray_image: torch.Tensor
    """[B, 512, 512, 3] the same crop in grey as the EVA tower sees it, three equal channels 0..1."""
    alignment: torch.Tensor
    """[B, 2, 3] affine matrix that maps photo pixels to crop pixels."""


@dataclass(frozen=True, eq=False)
class GlobalID(_Tensors):
    """Low-frequency half of an identity: what the VAE makes of the face image (paper section 3.2, "global")."""

    latents: torch.Tensor
    """[B, 16, T, h, w] unscaled VAE latents, float32: the face in frame 0, key points if used in 1, else zero."""


@dataclass(frozen=True, eq=False)
class LocalID(_Tensors):
    """High-frequency half of an identity: what every second transformer block attends (paper section 3.3, "local")."""

    tokens: torch.Tensor
    """[B, 32, 2048] identity tokens of the facial extractor, float32."""
