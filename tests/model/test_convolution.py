"""The convolutions rearranged for a processor against torch's own, and that they take fewer products."""

import pytest
import torch
import torch.nn.functional as F
from consisid_pack.consisid_core.model.convolution import convolve_causally, convolve_enlarged
from helpers.oracle import relative_error
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

ROUNDING = 3e-6
"""Relative to the output: sums are formed in another order."""


def layer(kind, **options):
    torch.manual_seed(0)
    return kind(32, 48, 3, **options)


def products(call):
    """(result, multiplications and additions of all convolutions)."""
    with FlopCounterMode(display=False) as counter:
        result = call()
    return result, counter.get_total_flops()


@torch.inference_mode()
@pytest.mark.parametrize(
    ("frames", "starts", "images"), [(1, True, 1), (4, True, 8), (9, True, 17), (2, False, 4), (5, False, 11)]
)
def test_causal_convolution_equals_torchs_by_fewer_convolutions_of_images(frames, starts, images):
    conv = layer(nn.Conv3d, padding=(0, 1, 1))
    video = torch.randn(2, 32, frames, 16, 24)
    past = [video[:, :, :1]] * 2 if starts else [torch.randn(2, 32, 2, 16, 24)]
    expected, all_products = products(lambda: conv(torch.cat([*past, video], dim=2)))
    pieces = [*past, *video.split(3, dim=2)]
    actual, fewer = products(lambda: convolve_causally(conv, pieces, starts))
    assert actual.shape == expected.shape and relative_error(actual, expected) <= ROUNDING
    assert fewer / all_products == pytest.approx(images / (3 * frames))


@torch.inference_mode()
def test_enlarged_convolution_equals_that_of_the_enlarged_image():
    conv = layer(nn.Conv2d, padding=1)
    images = torch.randn(3, 32, 16, 24)
    expected, all_products = products(lambda: conv(F.interpolate(images, scale_factor=2.0)))
    actual, fewer = products(lambda: convolve_enlarged(conv, images))
    assert actual.shape == expected.shape and relative_error(actual, expected) <= ROUNDING
    assert fewer / all_products == pytest.approx(4 / 9)


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 32), (torch.float32, 8)])
def test_small_videos_and_other_types_are_convolved_as_they_are(dtype, size):
    conv, larger = layer(nn.Conv3d, padding=(0, 1, 1)).to(dtype), layer(nn.Conv2d, padding=1).to(dtype)
    window, images = torch.randn(1, 32, 5, size, size, dtype=dtype), torch.randn(1, 32, size, size, dtype=dtype)
    assert torch.equal(convolve_causally(conv, [window], starts=False), conv(window))
    assert torch.equal(convolve_enlarged(larger, images), larger(F.interpolate(images, scale_factor=2.0)))


def test_gradients_equal_torchs():
    conv, larger = layer(nn.Conv3d, padding=(0, 1, 1)), layer(nn.Conv2d, padding=1)
    window, images = (torch.randn(1, 32, 6, 16, 24).requires_grad_(), torch.randn(1, 32, 24, 24).requires_grad_())
    pairs = [
        (convolve_causally(conv, [window], starts=False), conv(window), (window, *conv.parameters())),
        (convolve_enlarged(larger, images), larger(F.interpolate(images, scale_factor=2.0)), (images, larger.weight)),
    ]
    for actual, expected, inputs in pairs:
        weight = torch.randn_like(expected)
        gradients = (torch.autograd.grad((out * weight).sum(), inputs) for out in (actual, expected))
        for mine, theirs in zip(*gradients, strict=True):
            assert relative_error(mine, theirs) <= 10 * ROUNDING
