"""The CogVideoX VAE, run in chunks: the reference's parameter names and results, in a fraction of its memory where
there is little (diffusers `autoencoder_kl_cogvideox.py`).

A video is a list of pieces [B, C, frames, H, W] that join in time. Where a chunk holds all frames, there is one piece
and nothing is copied. Where it does not, each piece is a frame, and each step takes pieces out of its input's list as
it goes, so that they are freed as soon as they are used; norms then run over a few channel groups at a time,
convolutions over strips of rows. So the modules only hold the weights; the functions below them compute.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .convolution import convolve, convolve_causally, convolve_enlarged

CHUNK_VALUES = 2**25
"""Values that a norm or a convolution reads at once where memory is short: 64 MiB in bf16, which still fills an
accelerator."""

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

    def encode(self, pixels: torch.Tensor, run: Pass | None = None) -> torch.Tensor:
        """[B, 3, 4n+1, H, W] in -1..1 -> mean latents [B, 16, n+1, H/8, W/8].

        Args:
            run: a new one; by default in the smallest chunks.
        """
        return self._moments(pixels, run or Pass())[0]

    def posterior(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `encode`, with the standard deviation of the latents, from which training samples.

        Returns:
            (mean, standard deviation), each [B, 16, n+1, H/8, W/8].
        """
        mean, log_variance = self._moments(pixels, Pass())
        # Limits of diffusers' DiagonalGaussianDistribution.
        return mean, torch.exp(0.5 * log_variance.clamp(-30, 20))

    def _moments(self, pixels, run):
        batches = _split(pixels, PIXEL_BATCH)
        moments = [piece for batch in batches for piece in _encode_batch(self.encoder, batch, run)]
        return torch.cat(moments, dim=2).chunk(2, dim=1)

    def decode(self, latents: torch.Tensor, run: Pass | None = None) -> torch.Tensor:
        """[B, 16, n+1, h, w] -> [B, 3, 4n+1, 8h, 8w], for an even number of latent frames too.

        There the reference gives the first latent frame four video frames instead of one; the last of them is kept,
        which is where that latent frame lies in time, so that tiles and short videos join up.

        Args:
            run: as of `encode`; of a class of its own where the rows of the video lie on several devices.
        """
        run, pieces = run or Pass(), []
        for batch in _split(latents, LATENT_BATCH):
            pieces += _decode_batch(self.decoder, batch, run)
        run.earlier.clear()
        video = torch.cat(pieces, dim=2)
        return video if latents.shape[2] % 2 else video[:, :, 3:]


class Pass:
    """One pass over a video: how much of it is read at once, what is kept from one batch of frames to the next, and
    which of its rows are here: all.

    A subclass that spreads the rows of a video over devices fetches what convolutions and norms need of the others.
    """

    def __init__(self, chunk: int | None = None) -> None:
        """
        Args:
            chunk: values that a norm or a convolution may read at once, CHUNK_VALUES if None. More is faster and takes
                more memory; the result is the same.
        """
        self.chunk = chunk or CHUNK_VALUES
        self.earlier: dict[CausalConv, list[torch.Tensor]] = {}
        """Of each causal convolution, the last two frames that it read."""

    def widened(self, pieces: list[torch.Tensor]) -> tuple[list[torch.Tensor], int]:
        """Pieces with the rows just above and below theirs, where the video has any. May consume the pieces.

        Returns:
            (pieces, number of rows above their own).
        """
        return pieces, 0

    def statistics(self, pieces: list[torch.Tensor], groups: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean and variance, [B, groups] float32, of channel groups over all rows of these pieces; None if all rows
        are here."""
        return None


def _split(video, size):
    """Parts of so many frames; what does not divide goes to the first."""
    count = video.shape[2]
    first = min(count, size + count % size)
    return [video[:, :, :first], *video[:, :, first:].split(size, dim=2)] if first < count else [video]


def _encode_batch(encoder, pixels, run):
    pieces = _causal_conv(encoder.conv_in, list(pixels.split(1, dim=2)), run)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            pieces = _resnet(resnet, pieces, run)
        for sampler in block.downsamplers:
            pieces = _downsample(sampler, pieces, run)
    for resnet in encoder.mid_block.resnets:
        pieces = _resnet(resnet, pieces, run)
    return _causal_conv(encoder.conv_out, _norm_silu(encoder.norm_out, pieces, run), run)


def _decode_batch(decoder, latents, run):
    pieces = _causal_conv(decoder.conv_in, list(latents.split(1, dim=2)), run)
    for block in (decoder.mid_block, *decoder.up_blocks):
        for resnet in block.resnets:
            pieces = _resnet(resnet, pieces, run, latents)
        for sampler in block.upsamplers:
            pieces = _upsample(sampler, pieces, run)
    return _causal_conv(decoder.conv_out, _norm_silu(decoder.norm_out, pieces, run, latents), run)


def _resnet(block, pieces, run, latents=None):
    """Residual block. Consumes the pieces."""
    if not hasattr(block, "conv_shortcut"):
        residual = pieces
        hidden = _norm_silu(block.norm1, pieces, run, latents, in_place=False)
    else:
        residual = [convolve(block.conv_shortcut, piece) for piece in pieces]
        hidden = _norm_silu(block.norm1, pieces, run, latents)
    hidden = _causal_conv(block.conv1, hidden, run)
    hidden = _causal_conv(block.conv2, _norm_silu(block.norm2, hidden, run, latents), run)
    if len(residual) != len(hidden):  # As one piece only the side with fewer channels was small enough.
        residual, hidden = _frames(residual), _frames(hidden)
    for piece in hidden:
        piece += residual.pop(0)
    return hidden


def _frames(pieces):
    """The pieces' frames, each a piece that is freed alone: copies where a piece has more of them."""
    return [
        piece if piece.shape[2] == 1 else piece[:, :, i : i + 1].clone()
        for piece in pieces
        for i in range(piece.shape[2])
    ]


def _causal_conv(layer, pieces, run):
    """3x3x3 convolution over each frame and the two before it. Consumes the pieces."""
    height = pieces[0].shape[3]
    pieces, above = run.widened(pieces)
    own = slice(above, above + height)
    starts = layer not in run.earlier
    earlier = [pieces[0][:, :, :1]] * 2 if starts else run.earlier.pop(layer)
    frame = pieces[0][:, 0, :1].numel() * max(layer.conv.in_channels, layer.conv.out_channels)
    count = sum(piece.shape[2] for piece in pieces)
    if (count + 2) * frame <= run.chunk:
        window = [*earlier, *pieces]
        pieces.clear()
        run.earlier[layer] = _frames([piece[:, :, -2:] for piece in window[-2:]])[-2:]
        return [convolve_causally(layer.conv, window, starts)[:, :, :, own]]
    frames = _frames(pieces)
    pieces.clear()
    at_once = max(1, run.chunk // frame - 2)
    earlier, convolved = _frames(earlier), []
    while frames:
        window = [*earlier, *frames[:at_once]]
        del frames[:at_once]
        convolved += [frame[:, :, :, own] for frame in _conv_window(layer.conv, window, starts, run)]
        earlier, starts = window[-2:], False
    run.earlier[layer] = earlier
    return convolved


def _conv_window(conv, window, starts, run):
    """All frames but the first two; where three are too large, one in strips that overlap by the kernel's reach."""
    batch, channels, _, height, width = window[0].shape
    rows = max(1, run.chunk // (3 * batch * channels * width))
    if rows >= height:
        return _frames([convolve_causally(conv, window, starts)])
    convolved = window[0].new_empty(batch, conv.out_channels, 1, height, width)
    for top in range(0, height, rows):
        start = max(0, top - 1)
        strip = convolve(conv, torch.cat([frame[..., start : top + rows + 1, :] for frame in window], dim=2))
        convolved[..., top : top + rows, :] = strip[..., top - start :, :][..., :rows, :]
    return [convolved]


def _norm_silu(norm, pieces, run, latents=None, in_place=True):
    """Group norm over all frames together and SiLU; with latents, spatially conditioned. Consumes the pieces if
    in_place."""
    layer = norm if latents is None else norm.norm_layer
    frames = sum(piece.shape[2] for piece in pieces)
    size = layer.num_channels // layer.num_groups
    size *= max(1, run.chunk // (size * frames * pieces[0][:, 0, 0].numel()))
    statistics = run.statistics(pieces, layer.num_groups)
    if latents is not None:
        # A pointwise convolution and nearest-neighbour resampling may change places: so it runs on the few latents.
        latents = _spread_in_time(latents, frames)
        latents = convolve(norm.conv_y.conv, latents), convolve(norm.conv_b.conv, latents)
    if size >= layer.num_channels and len(pieces) == 1:
        (piece,) = pieces
        if in_place:
            pieces.clear()
        return [_norm_silu_of(layer, slice(None), piece, statistics, latents)]
    out = pieces if in_place and not torch.is_grad_enabled() else [torch.empty_like(piece) for piece in pieces]
    for start in range(0, layer.num_channels, size):
        channels = slice(start, min(start + size, layer.num_channels))
        part = torch.cat([piece[:, channels] for piece in pieces], dim=2)
        part = _norm_silu_of(layer, channels, part, statistics, latents)
        for piece, result in zip(out, part.split([piece.shape[2] for piece in pieces], dim=2), strict=True):
            piece[:, channels] = result
    return out


def _norm_silu_of(layer, channels, part, statistics, scale_and_shift):
    """The same for these channels of all frames, which are the part: a new tensor."""
    if statistics is None:
        groups = part.shape[1] * layer.num_groups // layer.num_channels
        part = F.group_norm(part, groups, layer.weight[channels], layer.bias[channels], layer.eps)
    else:
        part = _normalized(part, layer, channels, *statistics)
    if scale_and_shift is not None:
        scale, shift = scale_and_shift
        h, w = scale.shape[-2:]
        cells = rearrange(part, "b c t (h p) (w q) -> b c t h p w q", h=h, w=w)  # A view.
        cells.mul_(scale[:, channels, :, :, None, :, None]).add_(shift[:, channels, :, :, None, :, None])
    return F.silu(part, inplace=True)


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


def _upsample(layer, pieces, run):
    """Twice the size and, where the layer says so, twice the frames; of an odd number the first stays single."""
    height = pieces[0].shape[3]
    pieces, above = run.widened(pieces)
    larger = _sample(lambda images: convolve_enlarged(layer.conv, images), pieces, 4, run)
    larger = [piece[:, :, :, 2 * above : 2 * (above + height)] for piece in larger]
    if not layer.compress_time:
        return [piece.contiguous() for piece in larger]
    count = sum(piece.shape[2] for piece in larger)
    if len(larger) == 1:
        return [larger[0].index_select(2, torch.arange(count % 2, 2 * count, device=larger[0].device) // 2)]
    return larger[: count % 2] + [copy for frame in larger[count % 2 :] for copy in (frame, frame.clone())]


def _downsample(layer, pieces, run):
    """Half the size and, where the layer says so, half the frames; of an odd number the first stays as it is."""
    if layer.compress_time:
        pieces = _halved(pieces)
    smaller = _sample(lambda images: convolve(layer.conv, F.pad(images, (0, 1, 0, 1))), pieces, 1, run)
    return [piece.contiguous() for piece in smaller]


def _halved(pieces):
    """Means of two frames each; of an odd number the first stays as it is. Consumes the pieces."""
    if len(pieces) == 1:
        first, pairs = pieces[0].tensor_split([pieces[0].shape[2] % 2], dim=2)
        pairs = pairs.unflatten(2, (-1, 2)).mean(3)
        return [torch.cat((first, pairs), dim=2) if first.shape[2] else pairs]
    first = [pieces.pop(0)] if len(pieces) % 2 else []
    return first + [
        torch.cat(pair, dim=2).mean(2, keepdim=True) for pair in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def _sample(sample, pieces, growth, run):
    """A function of images over as many frames at once as a chunk holds. Consumes the pieces."""
    if len(pieces) == 1 and growth * pieces[0].numel() <= run.chunk:
        piece = pieces.pop()
        return [
            rearrange(sample(rearrange(piece, "b c t h w -> (b t) c h w")), "(b t) c h w -> b c t h w", b=len(piece))
        ]
    frames = _frames(pieces)
    pieces.clear()
    at_once = max(1, run.chunk // (growth * frames[0].numel()))
    sampled = []
    while frames:
        part = [frame.squeeze(2) for frame in frames[:at_once]]
        del frames[:at_once]
        # Copies, for a frame to be freed alone.
        sampled += [frame.unsqueeze(2).clone() for frame in sample(torch.cat(part)).split(len(part[0]))]
    return sampled
