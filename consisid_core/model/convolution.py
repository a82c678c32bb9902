"""The VAE's convolutions. On a processor, which spends nearly all of its time on their products, the large ones are
rearranged to need fewer: two thirds or less of those in time, four ninths of those that enlarge."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

ENOUGH_PLACES = 512
"""Below so many places of the output, rearranging the weights costs more than it saves."""


def convolve(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """conv(x), in float32 on a processor without kernels for x's type, which takes fifty times as long in it."""
    if x.device.type != "cpu" or _processor_convolves(x.dtype):
        return conv(x)
    return conv._conv_forward(x.float(), conv.weight.float(), conv.bias.float()).to(x.dtype)


def convolve_causally(conv: nn.Conv3d, window: Sequence[torch.Tensor], starts: bool) -> torch.Tensor:
    """3x3x3 convolution over each frame and the two before it.

    A processor computes two frames at once by Winograd's F(2, 3) in time: four convolutions of images, not six.

    Args:
        conv: padded by 1 in space, not in time.
        window: pieces [B, C, frames, H, W] that join in time; the first two frames have no output.
        starts: a video starts here, and these two frames only repeat its first one.

    Returns:
        [B, channels, all frames but two, H, W].
    """
    frames = [frame for piece in window for frame in piece.unbind(2)]
    if not _is_rearranged(frames[0], places=(len(frames) - 2) * frames[0][:, 0].numel()):
        return convolve(conv, torch.cat(list(window), dim=2))

    image = functools.partial(F.conv2d, padding=1)
    bias = conv.bias.float()
    first, second, third = conv.weight.float().unbind(2)
    plus, minus = (first + second + third) / 2, (first - second + third) / 2
    batch, _, height, width = frames[0].shape
    out = torch.empty(batch, conv.out_channels, len(frames) - 2, height, width)
    if starts:
        out[:, :, 0] = image(frames[2].float(), 2 * plus, bias)
    for i in range(starts, out.shape[2] - 1, 2):
        a, b, c, d = (frame.float() for frame in frames[i : i + 4])
        out[:, :, i] = image(a - c, first)
        out[:, :, i + 1] = image(d - b, third)
        out[:, :, i : i + 2].add_(image(b + c, plus, bias).unsqueeze(2))
        difference = image(c - b, minus)
        out[:, :, i].add_(difference)
        out[:, :, i + 1].sub_(difference)
    if (out.shape[2] - starts) % 2:
        a, b, c = (frame.float() for frame in frames[-3:])
        out[:, :, -1] = image(a, first, bias).add_(image(b, second)).add_(image(c, third))
    return out.to(frames[0].dtype)


def convolve_enlarged(conv: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """3x3 convolution of images twice the size, whose pixels are copies: [B, C, H, W] -> [B, channels, 2H, 2W].

    Two of three neighbours are copies of one pixel, so a processor adds their weights: for even and odd rows and
    columns each, a 2x2 convolution of the small images.
    """
    if not _is_rearranged(images, places=images[:, 0].numel()):
        return convolve(conv, F.interpolate(images, scale_factor=2.0))
    batch, _, height, width = images.shape
    padded, bias = F.pad(images.float(), (1, 1, 1, 1)), conv.bias.float()
    out = torch.empty(batch, conv.out_channels, height, 2, width, 2)
    for row, rows in enumerate(_summed_pairs(conv.weight.float(), dim=2)):
        for column, weight in enumerate(_summed_pairs(rows, dim=3)):
            part = padded[:, :, row : row + height + 1, column : column + width + 1]
            out[:, :, :, row, :, column] = F.conv2d(part, weight, bias)
    return out.flatten(4).flatten(2, 3).to(images.dtype)


def _summed_pairs(weight, dim):
    """Of three weights, the first and the sum of the others; the sum of the first two and the last."""
    first, second, third = weight.split(1, dim)
    return torch.cat((first, second + third), dim), torch.cat((first + second, third), dim)


def _is_rearranged(x, places):
    in_float32 = x.dtype == torch.float32 or not _processor_convolves(x.dtype)
    return x.device.type == "cpu" and in_float32 and places >= ENOUGH_PLACES


@functools.cache
def _processor_convolves(dtype):
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype != torch.float16 or torch.ops.mkldnn._is_mkldnn_fp16_supported()
