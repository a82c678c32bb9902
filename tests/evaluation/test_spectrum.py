"""Spectra of pictures whose spectrum is known: gratings, noise, ideally low-passed photos."""

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.spectrum import (
    SpectrumAccumulator,
    log_amplitude,
    picture_spectrum,
    relative_log_amplitude,
    ring_frequencies,
    spectrum_picture,
)
from skimage import data

SIZES = [(64, 64), (48, 80), (65, 40), (33, 33)]


def planes_spectrum(pictures, window):
    accumulator = SpectrumAccumulator(window)
    for picture in pictures:
        accumulator.add_planes(picture)
    return accumulator.result()


def rgb(plane):
    return np.repeat(plane[..., None], 3, axis=-1)


@pytest.fixture(scope="module")
def video():
    """Five frames of a real picture that moves, uint8 [5, 96, 144, 3]."""
    return np.stack([data.astronaut()[2 * i : 96 + 2 * i, 100 + 5 * i : 244 + 5 * i] for i in range(5)])


def radius(height, width):
    """[H, W] distance from the centre of a shifted spectrum, in cycles per pixel."""
    y, x = np.mgrid[:height, :width]
    return np.hypot((y - height // 2) / height, (x - width // 2) / width)


def low_pass(video, cutoff):
    """The video without any frequency from cutoff (cycles per pixel) on, float64 0..1."""
    transform = np.fft.fftshift(np.fft.fft2(video / 255, axes=(1, 2)), axes=(1, 2))
    transform[:, radius(*video.shape[1:3]) >= cutoff] = 0
    return np.fft.ifft2(np.fft.ifftshift(transform, axes=(1, 2)), axes=(1, 2)).real


def test_frequencies_are_cycles_per_pixel():
    assert ring_frequencies(60, 90).tolist() == [k / 90 for k in range(46)]
    assert ring_frequencies(5, 3).tolist() == [0, 0.2, 0.4]
    for window in (True, False):
        spectrum = planes_spectrum([np.ones((2, 48, 80))], window)
        assert np.array_equal(spectrum.frequency, ring_frequencies(48, 80)[int(window) :])
        assert spectrum.power.shape == spectrum.frequency.shape and spectrum.power_2d.shape == (48, 80)


@pytest.mark.parametrize("window", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_grating_peaks_at_its_frequency(size, window):
    """Whole numbers of cycles along either axis or both: the peak is that ring, and the 2-D peaks are those two."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    for cycles_y, cycles_x in [(0, 5), (7, 0), (6, 9), (-6, 9), (12, 4), (3, -12), (14, 0), (0, 15)]:
        frequency = np.hypot(cycles_y / height, cycles_x / width)
        grating = 0.5 + 0.4 * np.sin(2 * np.pi * (cycles_y * y / height + cycles_x * x / width) + 0.7)
        spectrum = picture_spectrum([rgb(grating)], window)
        # Ring 0 of the plain transform holds the mean.
        mean = int(not window)
        peak = spectrum.frequency[mean + spectrum.power[mean:].argmax()]
        assert abs(peak - frequency) <= 0.5 / max(size) + 1e-12, (cycles_y, cycles_x)
        power_2d = spectrum.power_2d.copy()
        power_2d[height // 2, width // 2] = 0
        expected = {
            (height // 2 + cycles_y, width // 2 + cycles_x),
            (height // 2 - cycles_y, width // 2 - cycles_x),
        }
        two_largest = np.argsort(power_2d, axis=None)[-2:]
        assert {tuple(map(int, np.unravel_index(i, size))) for i in two_largest} == expected
        if not window:
            # A sine of amplitude a has the power a^2 / 4 at either of its two frequencies, times the pixels.
            assert power_2d.max() == pytest.approx(0.4**2 / 4 * grating.size, rel=1e-12)


def test_window_confines_a_grating_that_does_not_fit_the_picture():
    """7.5 cycles: leakage into far rings falls by orders of magnitude, the mean does not leak at all."""
    x = np.arange(64)
    picture = rgb(np.tile(0.5 + 0.4 * np.sin(2 * np.pi * 7.5 * x / 64), (64, 1)))
    plain, windowed = (picture_spectrum([picture], window) for window in (False, True))
    peak = windowed.frequency[windowed.power.argmax()] * 64
    assert peak in (7, 8)
    far = 24 / 64
    leak = [s.power[s.frequency > far].sum() / s.power[s.frequency > 2 / 64].sum() for s in (plain, windowed)]
    assert leak[1] < 1e-4 * leak[0], leak
    grey = picture_spectrum([np.full((32, 32, 3), 0.6)], window=True)
    assert grey.power_2d.max() < 1e-28


@pytest.mark.parametrize("size", [*SIZES, (2, 2), (3, 2)])
def test_parseval(size):
    pictures = np.random.default_rng(2).normal(0.5, 0.3, (4, 3, *size))
    plain = planes_spectrum(pictures, window=False)
    assert plain.power_2d.sum() == pytest.approx((pictures**2).mean(axis=(0, 1)).sum(), rel=1e-12)
    # The window by its formula: raised cosine at pixel centres, of mean square 1, over values of weighted mean 0.
    hann = [0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n) for n in size]
    hann = np.outer(*hann) / np.sqrt(np.mean(np.outer(*hann) ** 2))
    means = np.average(pictures, axis=(2, 3), weights=np.broadcast_to(hann, pictures.shape))
    windowed = hann * (pictures - means[..., None, None])
    spectrum = planes_spectrum(pictures, window=True)
    assert spectrum.power_2d.sum() == pytest.approx((windowed**2).mean(axis=(0, 1)).sum(), rel=1e-12)
    assert spectrum.power_2d[size[0] // 2, size[1] // 2] < 1e-25 * spectrum.power_2d.sum()


@pytest.mark.parametrize("window", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_white_noise_is_flat_within_its_error(size, window):
    """Bounds from the number of samples in each ring, with 8 x 3 planes of unit variance.

    A frequency's power is exponential, of variance 1; it comes twice, at plus and minus, so a ring of n frequencies has
    the variance 2 / n (those that are their own opposite have the variance 2 and come once: 2 / n as well). Hann
    correlates neighbours: the transform of its square falls to 2/3 and 1/6 over one and two steps, so along each axis
    variances grow by at most 1 + 2 (4/9 + 1/36) = 35/18.
    """
    planes = 8 * 3
    pictures = np.random.default_rng(11).standard_normal((8, 3, *size))
    spectrum = planes_spectrum(pictures, window)
    rings = np.rint(radius(*size) * max(size)).astype(int)
    samples = np.array([(rings == round(f * max(size))).sum() for f in spectrum.frequency])
    deviation = np.sqrt(2 / (samples * planes)) * (35 / 18 if window else 1)
    # The mean that is taken out under the window is missing within one step of 0 along both axes.
    usable = spectrum.frequency >= 2 / min(size) if window else samples > 0
    z = ((spectrum.power - 1) / deviation)[usable]
    assert len(z) >= 28 and np.abs(z).max() <= 5, np.abs(z).max()
    # The bound is no wider than it must be: plain rings are independent, so the sum of squares is chi-squared.
    if not window:
        assert abs((z**2).sum() - len(z)) <= 5 * np.sqrt(2 * len(z))
        # A tilt of 1.5 times from end to end would not pass.
        tilted = spectrum.power * np.linspace(1, 1.5, len(spectrum.power))
        assert np.abs((tilted - 1) / deviation).max() > 5


@pytest.mark.parametrize("cutoff", [0.08, 0.2, 0.35])
def test_low_passed_video_loses_exactly_the_removed_band(video, cutoff):
    full = picture_spectrum(video, window=False)
    passed = picture_spectrum(low_pass(video, cutoff), window=False)
    removed = radius(96, 144) >= cutoff
    assert full.power_2d[removed].min() > 0
    assert passed.power_2d[removed].max() <= 1e-25 * full.power_2d[~removed].max()
    np.testing.assert_allclose(passed.power_2d[~removed], full.power_2d[~removed], rtol=1e-9)
    # A ring is half its width to either side of its frequency.
    half = 0.5 / 144
    kept, lost = full.frequency + half < cutoff, full.frequency - half >= cutoff
    relative = relative_log_amplitude(passed, full)
    assert np.abs(relative[kept]).max() <= 1e-9 and kept.sum() + lost.sum() >= len(relative) - 2
    assert relative[lost].max() < -15


def test_low_passed_video_through_the_window(video):
    """Hann mixes a frequency with its nearest neighbours only, so what is further off is lost or kept exactly."""
    full, passed = picture_spectrum(video), picture_spectrum(low_pass(video, 0.2))
    reach = np.hypot(1 / 96, 1 / 144) + 0.5 / 144
    relative = relative_log_amplitude(passed, full)
    assert np.abs(relative[full.frequency + reach < 0.2]).max() <= 1e-9
    assert relative[full.frequency - reach >= 0.2].max() < -15


def test_relative_log_amplitude(video):
    spectrum, doubled = picture_spectrum(video / 255), picture_spectrum(video / 255 * 2)
    np.testing.assert_allclose(relative_log_amplitude(doubled, spectrum), np.log(2), rtol=1e-12)
    assert not relative_log_amplitude(spectrum, spectrum).any()
    plain = picture_spectrum(video, window=False)
    relative = relative_log_amplitude(plain)
    assert relative[0] == 0 and (relative[1:] < 0).all() and plain.frequency[0] == 0
    # Against the transform itself: frequency 0 is the sum of the luma.
    luma = video / 255 @ [0.299, 0.587, 0.114]
    transform = np.fft.fft2(luma)
    at_zero = np.log(np.abs(transform[:, 0, 0]) / (96 * 144) ** 0.5)
    assert log_amplitude(picture_spectrum(video[:1], False))[0] == pytest.approx(at_zero[0], rel=1e-12)
    y, x = np.mgrid[-48:48, -72:72]
    ring = ((1.5 * y) ** 2 + x**2 >= 19.5**2) & ((1.5 * y) ** 2 + x**2 < 20.5**2)
    power = (np.abs(np.fft.fftshift(transform, axes=(1, 2))) ** 2).mean(axis=0)[ring].mean()
    expected = np.log(power**0.5) - np.log((transform[:, 0, 0].real ** 2).mean() ** 0.5)
    assert relative[20] == pytest.approx(expected, rel=1e-12)


def test_streaming_and_types_give_the_same(video):
    accumulator = SpectrumAccumulator()
    for i, frame in enumerate(video):
        accumulator.add(frame)
        assert accumulator.count == i + 1
    streamed, at_once = accumulator.result(), picture_spectrum(video)
    assert streamed.count == at_once.count == 5
    assert np.array_equal(streamed.power, at_once.power) and np.array_equal(streamed.power_2d, at_once.power_2d)
    assert np.array_equal(picture_spectrum(iter(video)).power, at_once.power)
    assert np.array_equal(picture_spectrum(torch.from_numpy(video)).power, at_once.power)
    np.testing.assert_allclose(picture_spectrum(video / 255).power, at_once.power, rtol=1e-12)
    single = picture_spectrum(torch.from_numpy(video).float().div(255))
    np.testing.assert_allclose(single.power, at_once.power, rtol=1e-5)
    parts = [picture_spectrum(video[i : i + 1]) for i in range(5)]
    np.testing.assert_allclose(np.mean([part.power for part in parts], axis=0), at_once.power, rtol=1e-12)
    latents = torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = planes_spectrum([latents.double().numpy()], False).power
    assert np.array_equal(planes_spectrum([latents], False).power, expected)
    channels = [planes_spectrum([plane[None]], False).power for plane in latents]
    np.testing.assert_allclose(expected, np.mean(channels, axis=0), rtol=1e-12)


def test_spectrum_picture(video):
    picture = spectrum_picture(picture_spectrum(video, window=False))
    assert picture.shape == (96, 144, 3) and picture.dtype == np.uint8
    assert (picture[48, 72] == 255).all() and (picture == picture[..., :1]).all()
    grey = picture[..., 0].astype(float)
    # A photo's power falls with frequency, and the spectrum of real pictures is symmetric.
    r = radius(96, 144)
    assert grey[r < 0.1].mean() > grey[(r > 0.2) & (r < 0.3)].mean() > grey[r > 0.45].mean()
    assert np.array_equal(grey[1:, 1:], grey[1:, 1:][::-1, ::-1])
    assert grey.std() > 20 and (grey == 0).mean() <= 0.02
    assert not spectrum_picture(picture_spectrum(np.zeros((1, 8, 8, 3)))).any()


def test_bad_pictures_are_refused(video):
    for bad, message in [
        (np.zeros((8, 8)), r"has the shape \[8, 8\]; give RGB"),
        (np.zeros((8, 8, 4)), "give RGB"),
        (np.zeros((8, 8, 3), np.int64), "is int64; give uint8 or floats"),
        (np.full((8, 8, 3), np.nan), "Picture 1 for the spectrum holds NaN"),
        (np.zeros((1, 8, 3)), "no spectrum"),
    ]:
        with pytest.raises(ConsisIDError, match=message):
            SpectrumAccumulator().add(bad)
    accumulator = SpectrumAccumulator()
    accumulator.add(video[0])
    with pytest.raises(ConsisIDError, match="Picture 2 for the spectrum is 100x96, those before are 144x96"):
        accumulator.add(video[0][:, :100])
    assert accumulator.result().count == 1
    with pytest.raises(ConsisIDError, match="no picture"):
        picture_spectrum([])
    with pytest.raises(ConsisIDError, match="other frequencies"):
        relative_log_amplitude(accumulator.result(), picture_spectrum(video, window=False))
