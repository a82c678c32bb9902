"""Radially averaged Fourier spectra of pictures, as the paper's Figure 3 compares the faces of generated videos.

The paper does not say how it computes that figure. This follows the recipe of "How Do Vision Transformers Work?"
(arXiv 2202.06709, Figure 2): amplitude of the 2-D transform, its logarithm, minus that at frequency 0. Here the average
runs over whole rings instead of one diagonal, and over all pictures, on power; the logarithm is taken last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import ConsisIDError

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B (Rec. 601), as face analysis turns a face grey."""


@dataclass(frozen=True)
class Spectrum:
    """Mean power of pictures of one size H x W, all float64.

    Power is |F|^2 / (H W), so the sum of a picture's power is the sum of its squared values (Parseval), after windowing
    if there is a window, and white noise of variance v has the power v at every frequency.
    """

    frequency: np.ndarray
    """[K] centres of the rings in cycles per pixel, rising to at most 0.5, 1 / max(H, W) apart. The first is 0 in a
    plain spectrum; a windowed one has no mean and begins at the next."""
    power: np.ndarray
    """[K] mean power of each ring, over pictures and channels. What lies beyond 0.5, in the corners of `power_2d` where
    diagonals only reach, is in no ring."""
    power_2d: np.ndarray
    """[H, W] mean power, frequency 0 at [H // 2, W // 2]."""
    count: int
    """Number of pictures."""


def ring_frequencies(height: int, width: int) -> np.ndarray:
    """Frequencies of the rings of a plain spectrum of a size in pixels.

    Returns:
        [K] cycles per pixel: 0, 1 / N, ... to at most 0.5, N being the longer side. The axis of that side has a
        frequency in every ring, so none is empty.
    """
    longer = max(height, width)
    return np.arange(longer // 2 + 1) / longer


class SpectrumAccumulator:
    """Spectrum of pictures that come one after another; it holds the sum of their power only."""

    def __init__(self, window: bool = True) -> None:
        """
        Args:
            window: True for a Hann window, which keeps the picture's borders from appearing as frequencies of their
                own. It is scaled to a mean square of 1, so that noise keeps its level, and the mean under the window is
                taken out first, so that brightness does not leak into the lowest frequencies. False for the plain
                transform, mean and borders included.
        """
        self.count = 0
        """Pictures added so far."""
        self._windowed = window
        self._total = None  # [H, W] sum of power, frequency 0 at [0, 0].

    def add(self, picture: np.ndarray | torch.Tensor) -> None:
        """Add the luma of an RGB picture; power is in units of 0..1.

        Args:
            picture: [H, W, 3], uint8 or float 0..1.

        Raises:
            ConsisIDError: another shape or type, and as `add_planes` does.
        """
        values = _numpy(picture)
        if values.ndim != 3 or values.shape[-1] != 3:
            raise ConsisIDError(
                f"A picture for the spectrum has the shape {list(values.shape)}; give RGB, [height, width, 3]."
            )
        if values.dtype != np.uint8 and not np.issubdtype(values.dtype, np.floating):
            raise ConsisIDError(f"A picture for the spectrum is {values.dtype}; give uint8 or floats from 0 to 1.")
        luma = values.astype(np.float64) @ np.array(LUMA)
        self.add_planes((luma / 255 if values.dtype == np.uint8 else luma)[None])

    def add_planes(self, planes: np.ndarray | torch.Tensor) -> None:
        """Add one picture of any channels, such as a frame of latents.

        Args:
            planes: [C, H, W].

        Raises:
            ConsisIDError: it is not finite, smaller than 2 x 2, or of another size than those before.
        """
        planes = _numpy(planes).astype(np.float64)
        size = planes.shape[-2:]
        if planes.ndim != 3 or min(planes.shape) < 1 or min(size) < 2:
            raise ConsisIDError(
                f"A picture of shape {list(planes.shape)} has no spectrum; give [channels, height, width], at least "
                "2 x 2 pixels."
            )
        if not np.isfinite(planes).all():
            raise ConsisIDError(
                f"Picture {self.count + 1} for the spectrum holds NaN or infinite values; leave it out."
            )
        if self._total is None:
            self._total = np.zeros(size)
            self._window = _hann(*size) if self._windowed else None
        elif self._total.shape != size:
            height, width = self._total.shape
            raise ConsisIDError(
                f"Picture {self.count + 1} for the spectrum is {size[1]}x{size[0]}, those before are {width}x{height}. "
                "Bring all to one size first."
            )
        if self._windowed:
            mean = (planes * self._window).sum(axis=(1, 2), keepdims=True) / self._window.sum()
            planes = (planes - mean) * self._window
        self._total += (np.abs(np.fft.fft2(planes)) ** 2).mean(axis=0) / planes[0].size
        self.count += 1

    def result(self) -> Spectrum:
        """The Spectrum of what was added so far.

        Raises:
            ConsisIDError: that is nothing.
        """
        if self.count == 0:
            raise ConsisIDError("There is no picture to take a spectrum of.")
        power_2d = np.fft.fftshift(self._total / self.count)
        frequency = ring_frequencies(*power_2d.shape)
        ring = _ring_of_each(*power_2d.shape)
        inside = ring < len(frequency)
        power = np.bincount(ring[inside], weights=power_2d[inside]) / np.bincount(ring[inside])
        first = int(self._windowed)
        return Spectrum(frequency[first:], power[first:], power_2d, self.count)


def picture_spectrum(
    pictures: Iterable[np.ndarray | torch.Tensor] | np.ndarray | torch.Tensor, window: bool = True
) -> Spectrum:
    """Spectrum of the luma of RGB pictures.

    Args:
        pictures: any iterable of [H, W, 3], or [N, H, W, 3].
        window: as of SpectrumAccumulator.

    Raises:
        ConsisIDError: there are none, or one is refused (`SpectrumAccumulator.add`).
    """
    accumulator = SpectrumAccumulator(window)
    for picture in pictures:
        accumulator.add(picture)
    return accumulator.result()


def log_amplitude(spectrum: Spectrum) -> np.ndarray:
    """[K] natural logarithm of the amplitude of each ring (root of its mean power); -inf where there is no power."""
    with np.errstate(divide="ignore"):
        return 0.5 * np.log(spectrum.power)


def relative_log_amplitude(spectrum: Spectrum, reference: Spectrum | None = None) -> np.ndarray:
    """Log amplitude minus that of a reference, or without one minus that of the lowest ring.

    Returns:
        [K] 0.69 means twice the reference's amplitude, in that ring. Not finite where either has no power.

    Raises:
        ConsisIDError: the reference has other frequencies, because its pictures have another size or were windowed
            otherwise.
    """
    amplitude = log_amplitude(spectrum)
    if reference is None:
        base = amplitude[0]
    elif np.array_equal(spectrum.frequency, reference.frequency):
        base = log_amplitude(reference)
    else:
        raise ConsisIDError(
            "The reference's spectrum has other frequencies: its pictures have another size, or only one of both is "
            "windowed. Bring all pictures to one size and window both alike."
        )
    with np.errstate(invalid="ignore"):
        return amplitude - base


def spectrum_picture(spectrum: Spectrum) -> np.ndarray:
    """A grey picture of the logarithm of `power_2d`, frequency 0 in the middle.

    White is the greatest power; black is the first percentile and less, so that single gaps do not cost contrast.

    Returns:
        uint8 [H, W, 3].
    """
    power = spectrum.power_2d
    if not power.any():
        return np.zeros((*power.shape, 3), np.uint8)
    level = np.log(np.maximum(power, power[power > 0].min()))
    low, high = np.percentile(level, 1), level.max()
    grey = np.clip((level - low) / (high - low), 0, 1) if high > low else np.ones_like(level)
    return np.repeat(np.round(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)


def _numpy(values):
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _hann(height, width):
    """[height, width] Hann window of mean square 1. Sampled at pixel centres, so that no pixel is lost."""
    rows, columns = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (height, width))
    window = rows[:, None] * columns
    return window / np.sqrt((window**2).mean())


def _ring_of_each(height, width):
    """[height, width] the ring that each frequency of a centred spectrum is nearest to."""
    longer = max(height, width)
    # Whole cycles times the longer side, then divided: halves on the axes come out exact, and go up.
    rows, columns = ((np.arange(n) - n // 2) * longer / n for n in (height, width))
    return np.floor(np.hypot(rows[:, None], columns) + 0.5).astype(int)
