"""The three values that travel on ConsisID's own wires. Scripts may build them by hand."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Face:
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


@dataclass(frozen=True)
class GlobalID:
    """Low-frequency half of an identity: what the VAE makes of the face image (paper section 3.2, "global")."""

    latents: torch.Tensor
    """[B, 16, T, h, w] unscaled VAE latents, float32: the face in frame 0, key points if used in 1, else zero."""


@dataclass(frozen=True)
class LocalID:
    """High-frequency half of an identity: what every second transformer block attends (paper section 3.3, "local")."""

    tokens: torch.Tensor
    """[B, 32, 2048] identity tokens of the facial extractor, float32."""
