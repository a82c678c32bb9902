"""The passes of CogVideoXVAE as plain functions of its parameters, for training.

The class saves memory frame by frame, which costs time where gradients are kept. Here a causal convolution is one 2-D
convolution over the channels of three frames. The planar form has kernels of the last frame alone, [out, in, 3, 3],
and takes pictures [B, C, H, W] where the other takes videos [B, C, T, H, W]: it learns ten times as fast, and what it
learned is where the other goes on (`inflated`).

On the CPU everything stays contiguous: torch's bfloat16 group norm takes 40 times as long in channels-last order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from ...model.vae import TIME_LEVELS

_GROUPS, _EPSILON = 32, 1e-6


class Twin:
    """Encoder and decoder of these parameters. Latents are unscaled."""

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """
        Args:
            parameters: of CogVideoXVAE, or of its planar form. Names as in the class.
        """
        self.parameters = parameters
        self.planar = parameters["decoder.conv_in.conv.weight"].ndim == 4

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Mean latents [B, 16, 5, h, w] of [B, 3, 17, H, W] in -1..1; of the planar form without the third dimension.

        As many frames as the class takes in two batches: 9 to 17.
        """
        hidden = self._conv("encoder.conv_in.conv", pixels)
        for level in range(self._count("encoder.down_blocks")):
            block = f"encoder.down_blocks.{level}"
            for layer in range(self._count(f"{block}.resnets")):
                hidden = self._resnet(f"{block}.resnets.{layer}", hidden, None)
            hidden = self._downsample(f"{block}.downsamplers.0.conv", hidden, level)
        for layer in range(2):
            hidden = self._resnet(f"encoder.mid_block.resnets.{layer}", hidden, None)
        hidden = self._norm("encoder.norm_out", hidden, None)
        return self._conv("encoder.conv_out.conv", hidden).chunk(2, dim=1)[0]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, 16, 5, h, w] -> [B, 3, 17, 8h, 8w]; of the planar form without the third dimension."""
        hidden = self._conv("decoder.conv_in.conv", latents)
        for layer in range(2):
            hidden = self._resnet(f"decoder.mid_block.resnets.{layer}", hidden, latents)
        for level in range(self._count("decoder.up_blocks")):
            block = f"decoder.up_blocks.{level}"
            for layer in range(self._count(f"{block}.resnets")):
                hidden = self._resnet(f"{block}.resnets.{layer}", hidden, latents)
            hidden = self._upsample(f"{block}.upsamplers.0.conv", hidden, level)
        return self._conv("decoder.conv_out.conv", self._norm("decoder.norm_out", hidden, latents))

    def _count(self, prefix):
        """Number of numbered children."""
        numbers = {name[len(prefix) + 1 :].split(".")[0] for name in self.parameters if name.startswith(prefix + ".")}
        return len(numbers)

    def _layer(self, name):
        return self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]

    def _conv(self, name, x):
        weight, bias = self._layer(name)
        if self.planar:
            return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        if weight.shape[2] == 1:
            return self._on_frames(x, lambda frames: F.conv2d(frames, weight[:, :, 0], bias))
        before = x[:, :, :1].expand(-1, -1, 2, -1, -1)
        x = torch.cat((before, x), dim=2)
        frames = x.shape[2] - 2
        three = torch.cat([x[:, :, k : k + frames] for k in range(3)], dim=1)
        kernel = weight.transpose(1, 2).flatten(1, 2)
        return self._on_frames(three, lambda frames: F.conv2d(frames, kernel, bias, padding=1))

    def _on_frames(self, x, function: Callable[[torch.Tensor], torch.Tensor]):
        """A function of pictures on all frames."""
        if self.planar:
            return function(x)
        frames = function(x.transpose(1, 2).flatten(0, 1).contiguous())
        return frames.unflatten(0, (len(x), -1)).transpose(1, 2)

    def _group_norm(self, name, x):
        """Over the frames that the class takes together: of an odd number one more in the first batch."""
        weight, bias = self._layer(name)
        if self.planar or x.shape[2] == 1:
            return F.group_norm(x, _GROUPS, weight, bias, _EPSILON)
        first = x.shape[2] // 2 + 1
        batches = x[:, :, :first], x[:, :, first:]
        return torch.cat([F.group_norm(batch, _GROUPS, weight, bias, _EPSILON) for batch in batches], dim=2)

    def _norm(self, name, x, latents):
        """Group norm and SiLU; with latents each of them scales and shifts the pixels that it covers."""
        if latents is None:
            return F.silu(self._group_norm(name, x))
        normed = self._group_norm(f"{name}.norm_layer", x)
        scale, shift = (self._spread(self._conv(f"{name}.{part}.conv", latents), x) for part in ("conv_y", "conv_b"))
        cells = normed.unflatten(-1, (latents.shape[-1], -1)).unflatten(-3, (latents.shape[-2], -1))
        cells = torch.addcmul(shift[..., :, None, :, None], cells, scale[..., :, None, :, None])
        return F.silu(cells.flatten(-4, -3).flatten(-2))

    def _spread(self, latents, x):
        """Repeated to the frames of x; the first stands alone."""
        if self.planar or latents.shape[2] == x.shape[2]:
            return latents
        times = (x.shape[2] - 1) // (latents.shape[2] - 1)
        return torch.cat((latents[:, :, :1], latents[:, :, 1:].repeat_interleave(times, 2)), dim=2)

    def _resnet(self, name, x, latents):
        hidden = self._conv(f"{name}.conv1.conv", self._norm(f"{name}.norm1", x, latents))
        hidden = self._conv(f"{name}.conv2.conv", self._norm(f"{name}.norm2", hidden, latents))
        has_shortcut = f"{name}.conv_shortcut.weight" in self.parameters
        return hidden + (self._conv(f"{name}.conv_shortcut", x) if has_shortcut else x)

    def _downsample(self, name, x, level):
        if f"{name}.weight" not in self.parameters:
            return x
        if not self.planar and level < TIME_LEVELS and x.shape[2] > 1:
            rest = x[:, :, 1:]
            x = torch.cat((x[:, :, :1], 0.5 * (rest[:, :, ::2] + rest[:, :, 1::2])), dim=2)
        weight, bias = self._layer(name)
        return self._on_frames(x, lambda frames: F.conv2d(F.pad(frames, (0, 1, 0, 1)), weight, bias, stride=2))

    def _upsample(self, name, x, level):
        if f"{name}.weight" not in self.parameters:
            return x
        weight, bias = self._layer(name)
        larger = self._on_frames(
            x, lambda frames: F.conv2d(F.interpolate(frames, scale_factor=2.0), weight, bias, padding=1)
        )
        if self.planar or level >= TIME_LEVELS or larger.shape[2] == 1:
            return larger
        return torch.cat((larger[:, :, :1], larger[:, :, 1:].repeat_interleave(2, 2)), dim=2)


def planar(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The planar form of the class's parameters: kernels of the last frame alone. Copies."""
    return {name: (x[:, :, -1] if x.ndim == 5 else x).detach().clone() for name, x in parameters.items()}


def inflated(flat: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters of the class that do on every frame what the planar ones do. Copies.

    Args:
        flat: planar parameters.
        like: of the class, for the shapes.
    """
    full = {}
    for name, x in like.items():
        full[name] = flat[name].detach().clone()
        if x.ndim == 5:
            kernel = torch.zeros_like(x, device=flat[name].device)
            kernel[:, :, -1] = flat[name].detach()
            full[name] = kernel
    return full
