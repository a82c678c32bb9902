"""The CogVideoX VAE, run frame by frame: the reference's parameter names and results in a fraction of its memory
(diffusers `autoencoder_kl_cogvideox.py`).

A video is a list of frames [B, C, H, W]. Each step takes frames out of its input's list as it goes, so that they are
freed as soon as they are used; what the causal convolutions remember from one batch of frames to the next are those
frames themselves. Norms run over a few channel groups at a time, convolutions over strips of rows. So the modules only
hold the weights; the functions below them compute.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

CHUNK_VALUES = 2**25
"""Values that a norm or a convolution reads at once: 64 MiB in bf16, which still fills an accelerator."""

TIME_LEVELS = 2
"""Of the halvings of the frame size, the first so many halve the number of frames, too: 4x in time."""
PIXEL_BATCH, LATENT_BATCH = 8, 2
"""Frames that are encoded and decoded together: group norms run over them, so the result depends on it."""


class CausalConv(nn.Module):
    """Convolution over a frame and the two before it. Padded in space here, and in time by who runs it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__()
        pad = kernel_size // 2
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, padding=(0, pad, pad))


class ConditionedNorm(nn.Module):
    """Group norm whose scale and shift are read off the latents at each place."""

    def __init__(self, channels: int, latent_channels: int):
        super().__init__()
        self.norm_layer = nn.GroupNorm(32, channels, eps=1e-6)
        self.conv_y = CausalConv(latent_channels, channels, kernel_size=1)
        self.conv_b = CausalConv(latent_channels, channels, kernel_size=1)


def _norm(channels, latent_channels):
    return ConditionedNorm(channels, latent_channels) if latent_channels else nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two convolutions, each after a norm, around which the input is added."""

    def __init__(self, in_channels: int, out_channels: int, latent_channels: int):
        super().__init__()
        self.norm1 = _norm(in_channels, latent_channels)
        self.norm2 = _norm(out_channels, latent_channels)
        self.conv1 = CausalConv(in_channels, out_channels)
        self.conv2 = CausalConv(out_channels, out_channels)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv3d(in_channels, out_channels, 1)


class Resample(nn.Module):
    """Half or twice the size of a frame; with compress_time of the number of frames, too."""

    def __init__(self, channels: int, compress_time: bool, **convolution: int):
        super().__init__()
        self.compress_time = compress_time
        self.conv = nn.Conv2d(channels, channels, 3, **convolution)


class Block(nn.Module):
    """Residual blocks of one size. latent_channels: 0 in the encoder, whose norms know no latents."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, latent_channels: int = 0):
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.resnets = nn.ModuleList(ResnetBlock(*widths[i : i + 2], latent_channels) for i in range(layers))
        self.downsamplers = self.upsamplers = ()


class Encoder(nn.Module):
    """Pixels to mean and log variance of latents. channels: width of each frame size, the largest frames first."""

    def __init__(self, channels: Sequence[int], layers: int, latent_channels: int):
        super().__init__()
        self.conv_in = CausalConv(3, channels[0])
        widths = [channels[0], *channels]
        self.down_blocks = nn.ModuleList(Block(*widths[i : i + 2], layers) for i in range(len(channels)))
        for level, block in enumerate(self.down_blocks[:-1]):
            block.downsamplers = nn.ModuleList([Resample(channels[level], level < TIME_LEVELS, stride=2)])
        self.mid_block = Block(channels[-1], channels[-1], 2)
        self.norm_out = nn.GroupNorm(32, channels[-1], eps=1e-6)
        self.conv_out = CausalConv(channels[-1], 2 * latent_channels)


class Decoder(nn.Module):
    """Latents to pixels. channels: as the encoder's."""

    def __init__(self, channels: Sequence[int], layers: int, latent_channels: int):
        super().__init__()
        channels = channels[::-1]
        self.conv_in = CausalConv(latent_channels, channels[0])
        self.mid_block = Block(channels[0], channels[0], 2, latent_channels)
        widths = [channels[0], *channels]
        self.up_blocks = nn.ModuleList(
            Block(*widths[i : i + 2], layers + 1, latent_channels) for i in range(len(channels))
        )
        for level, block in enumerate(self.up_blocks[:-1]):
            block.upsamplers = nn.ModuleList([Resample(channels[level], level < TIME_LEVELS, padding=1)])
        self.norm_out = ConditionedNorm(channels[-1], latent_channels)
        self.conv_out = CausalConv(channels[-1], 3)


class CogVideoXVAE(nn.Module):
    """Tensors in, tensors out, as ComfyUI calls its VAE nets. Latents are unscaled.

    Whether gradients are kept is the caller's: run it under `torch.no_grad()` or `torch.inference_mode()`, as ComfyUI
    does, or every step's values stay in memory. Gradients equal the reference's.
    """

    def __init__(
        self,
        block_out_channels: Sequence[int] = (128, 256, 256, 512),
        layers_per_block: int = 3,
        latent_channels: int = 16,
    ):
        """
        Args:
            block_out_channels: width of each frame size, the largest frames first.
            layers_per_block: residual blocks of each size in the encoder; the decoder has one more.
        """
        super().__init__()
        self.latent_channels = latent_channels
        self.encoder = Encoder(block_out_channels, layers_per_block, latent_channels)
        self.decoder = Decoder(block_out_channels, layers_per_block, latent_channels)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, 4n+1, H, W] in -1..1 -> mean latents [B, 16, n+1, H/8, W/8]."""
        return self._moments(pixels)[0]

    def posterior(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `encode`, with the standard deviation of the latents, from which training samples.

        Returns:
            (mean, standard deviation), each [B, 16, n+1, H/8, W/8].
        """
        mean, log_variance = self._moments(pixels)
        # Limits of diffusers' DiagonalGaussianDistribution.
        return mean, torch.exp(0.5 * log_variance.clamp(-30, 20))

    def _moments(self, pixels):
        state = Pass()
        batches = _split(pixels, PIXEL_BATCH)
        moments = [frame for batch in batches for frame in _encode_batch(self.encoder, batch, state)]
        return torch.stack(moments, dim=2).chunk(2, dim=1)

    def decode(self, latents: torch.Tensor, state: Pass | None = None) -> torch.Tensor:
        """[B, 16, n+1, h, w] -> [B, 3, 4n+1, 8h, 8w], for an even number of latent frames too.

        There the reference gives the first latent frame four video frames instead of one; the last of them is kept,
        which is where that latent frame lies in time, so that tiles and short videos join up.

        Args:
            state: a new one; of another class where the rows of the video lie on several devices.
        """
        state, frames = state or Pass(), []
        for batch in _split(latents, LATENT_BATCH):
            frames += _decode_batch(self.decoder, batch, state)
        state.history.clear()
        return torch.stack(frames if latents.shape[2] % 2 else frames[3:], dim=2)


class Pass:
    """One pass over a video: what it keeps from one batch of frames to the next, and which rows of them are here: all.

    A subclass that spreads the rows of a video over devices fetches what convolutions and norms need of the others.
    """

    def __init__(self) -> None:
        self.history: dict[nn.Module, list[torch.Tensor]] = {}
        """Causal convolution -> the last two frames that it read."""

    def widened(self, frames: list[torch.Tensor]) -> tuple[list[torch.Tensor], int]:
        """Frames with the rows just above and below theirs, where the video has any. Consumes the frames.

        Returns:
            (frames, number of rows above their own).
        """
        return frames, 0

    def statistics(self, frames: list[torch.Tensor], groups: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean and variance, [B, groups] float32, of channel groups over all rows of these frames; None if all rows
        are here."""
        return None


def _split(video, size):
    """Parts of so many frames; what does not divide goes to the first."""
    count = video.shape[2]
    first = min(count, size + count % size)
    return [video[:, :, :first], *video[:, :, first:].split(size, dim=2)] if first < count else [video]


def _encode_batch(encoder, pixels, state):
    frames = _causal_conv(encoder.conv_in, list(pixels.unbind(2)), state)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            frames = _resnet(resnet, frames, state)
        for sampler in block.downsamplers:
            frames = _downsample(sampler, frames)
    for resnet in encoder.mid_block.resnets:
        frames = _resnet(resnet, frames, state)
    return _causal_conv(encoder.conv_out, _norm_silu(encoder.norm_out, frames, state), state)


def _decode_batch(decoder, latents, state):
    frames = _causal_conv(decoder.conv_in, list(latents.unbind(2)), state)
    for block in (decoder.mid_block, *decoder.up_blocks):
        for resnet in block.resnets:
            frames = _resnet(resnet, frames, state, latents)
        for sampler in block.upsamplers:
            frames = _upsample(sampler, frames, state)
    return _causal_conv(decoder.conv_out, _norm_silu(decoder.norm_out, frames, state, latents), state)


def _resnet(block, frames, state, latents=None):
    """Residual block. Consumes the frames."""
    if not hasattr(block, "conv_shortcut"):
        residual = frames
        hidden = _norm_silu(block.norm1, frames, state, latents, in_place=False)
    else:
        residual = [block.conv_shortcut(frame.unsqueeze(2)).squeeze(2) for frame in frames]
        hidden = _norm_silu(block.norm1, frames, state, latents)
    hidden = _causal_conv(block.conv1, hidden, state)
    hidden = _causal_conv(block.conv2, _norm_silu(block.norm2, hidden, state, latents), state)
    for frame in hidden:
        frame += residual.pop(0)
    return hidden


def _causal_conv(layer, frames, state):
    """3x3x3 convolution over each frame and the two before it. Consumes the frames."""
    height = frames[0].shape[2]
    frames, above = state.widened(frames)
    earlier = state.history.pop(layer, None) or [frames[0]] * 2
    at_once = max(1, CHUNK_VALUES // frames[0].numel() - 2)
    convolved = []
    while frames:
        window = [*earlier, *frames[:at_once]]
        del frames[:at_once]
        convolved += [frame[:, :, above : above + height] for frame in _conv_window(layer.conv, window)]
        earlier = window[-2:]
    state.history[layer] = earlier
    return convolved


def _conv_window(conv, window):
    """All frames but the first two; where three are too large, one in strips that overlap by the kernel's reach."""
    batch, channels, height, width = window[0].shape
    rows = max(1, CHUNK_VALUES // (3 * batch * channels * width))
    if rows >= height:
        # Copies, for a frame to be freed alone.
        return [frame.clone() for frame in conv(torch.stack(window, dim=2)).unbind(2)]
    convolved = window[0].new_empty(batch, conv.out_channels, height, width)
    for top in range(0, height, rows):
        start = max(0, top - 1)
        strip = conv(torch.stack([frame[..., start : top + rows + 1, :] for frame in window], dim=2)).squeeze(2)
        convolved[..., top : top + rows, :] = strip[..., top - start :, :][..., :rows, :]
    return [convolved]


def _norm_silu(norm, frames, state, latents=None, in_place=True):
    """Group norm over all frames together and SiLU; with latents, spatially conditioned. Autograd keeps the frames."""
    out = frames if in_place and not torch.is_grad_enabled() else [torch.empty_like(frame) for frame in frames]
    layer = norm if latents is None else norm.norm_layer
    size = layer.num_channels // layer.num_groups
    size *= max(1, CHUNK_VALUES // (size * len(frames) * frames[0][:, 0].numel()))
    statistics = state.statistics(frames, layer.num_groups)
    if latents is not None:
        # A pointwise convolution and nearest-neighbour resampling may change places: so it runs on the few latents.
        latents = _spread_in_time(latents, len(frames))
        scale, shift = norm.conv_y.conv(latents), norm.conv_b.conv(latents)
    for start in range(0, layer.num_channels, size):
        channels = slice(start, min(start + size, layer.num_channels))
        part = torch.stack([frame[:, channels] for frame in frames], dim=2)
        if statistics is None:
            groups = part.shape[1] * layer.num_groups // layer.num_channels
            part = F.group_norm(part, groups, layer.weight[channels], layer.bias[channels], layer.eps)
        else:
            part = _normalized(part, layer, channels, *statistics)
        if latents is not None:
            h, w = latents.shape[-2:]
            cells = rearrange(part, "b c t (h p) (w q) -> b c t h p w q", h=h, w=w)  # A view.
            cells.mul_(scale[:, channels, :, :, None, :, None]).add_(shift[:, channels, :, :, None, :, None])
        F.silu(part, inplace=True)
        for frame, result in zip(out, part.unbind(2), strict=True):
            frame[:, channels] = result
    return out


def _normalized(part, layer, channels, mean, variance):
    """Group norm of these channels, a part of the layer's, by statistics [B, groups] of all rows."""
    per_group = layer.num_channels // layer.num_groups
    mean, variance = (x.repeat_interleave(per_group, dim=1)[:, channels] for x in (mean, variance))
    scale = layer.weight[channels].float() * torch.rsqrt(variance + layer.eps)
    shift = layer.bias[channels].float() - mean * scale
    return torch.addcmul(shift[:, :, None, None, None], part.float(), scale[:, :, None, None, None]).to(part.dtype)


def _spread_in_time(latents, frames):
    """Latent frames repeated to so many; of an odd number the first one stands alone."""
    if frames % 2 == 0:
        return latents.repeat_interleave(frames // latents.shape[2], dim=2)
    if frames == 1:
        return latents
    first, rest = latents[:, :, :1], latents[:, :, 1:]
    return torch.cat((first, rest.repeat_interleave((frames - 1) // rest.shape[2], dim=2)), dim=2)


def _upsample(layer, frames, state):
    """Twice the size and, where the layer says so, twice the frames; of an odd number the first stays single."""
    single = len(frames) % 2
    height = frames[0].shape[2]
    frames, above = state.widened(frames)
    larger = _sample(lambda frame: layer.conv(F.interpolate(frame, scale_factor=2.0)), frames, 4)
    larger = [frame[:, :, 2 * above : 2 * (above + height)] for frame in larger]
    if not layer.compress_time:
        return larger
    return larger[:single] + [copy for frame in larger[single:] for copy in (frame, frame.clone())]


def _downsample(layer, frames):
    """Half the size and, where the layer says so, half the frames; of an odd number the first stays as it is."""
    if layer.compress_time:
        first = [frames.pop(0)] if len(frames) % 2 else []
        frames = first + [torch.stack(pair).mean(0) for pair in zip(frames[::2], frames[1::2], strict=True)]
    return _sample(lambda frame: layer.conv(F.pad(frame, (0, 1, 0, 1))), frames, 1)


def _sample(sample, frames, growth):
    """A function of single frames over as many at once as a chunk holds. Consumes the frames."""
    at_once = max(1, CHUNK_VALUES // (growth * frames[0].numel()))
    sampled = []
    while frames:
        part = frames[:at_once]
        del frames[:at_once]
        # Copies, for a frame to be freed alone.
        sampled += [frame.clone() for frame in sample(torch.cat(part)).split(len(part[0]))]
    return sampled
