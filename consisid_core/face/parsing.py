"""Face parsing: BiSeNet (arXiv 1808.00897) labels every pixel of the aligned crop, and what is not the person turns
white. Parameter names are those of facexlib's `BiSeNet`, so its `parsing_bisenet.pth` loads as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..checkpoint.fit import describe_weights, load_exactly
from ..errors import WeightsError

WHITENED_LABELS = (0, 16, 18, 7, 8, 9, 14, 15)
"""Labels that turn white: background, cloth, hat, left ear, right ear, earring, neck, necklace (diffusers
`consisid_utils.py:187`). What stays is skin (1), brows (2, 3), eyes (4, 5), glasses (6), nose (10), mouth and lips
(11, 12, 13) and hair (17)."""

FACE_LABELS = (1, 2, 3, 4, 5, 6, 10, 11, 12, 13)
"""The face without ears, hair and neck: skin, brows, eyes, glasses, nose, mouth and lips."""

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)


def _global_average(x: torch.Tensor) -> torch.Tensor:
    return x.mean(dim=(2, 3), keepdim=True)


class _ConvBNReLU(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = _conv(in_channels, out_channels, kernel_size)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class _BasicBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + (x if self.downsample is None else self.downsample(x)))


class _ResNet18(nn.Module):
    """Image -> features at 1/8, 1/16 and 1/32 of its size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv(3, width, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._layer(width, width, stride=1)
        self.layer2 = self._layer(width, 2 * width, stride=2)
        self.layer3 = self._layer(2 * width, 4 * width, stride=2)
        self.layer4 = self._layer(4 * width, 8 * width, stride=2)

    @staticmethod
    def _layer(in_channels, out_channels, stride):
        return nn.Sequential(_BasicBlock(in_channels, out_channels, stride), _BasicBlock(out_channels, out_channels, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), kernel_size=3, stride=2, padding=1)
        eighth = self.layer2(self.layer1(x))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class _AttentionRefinement(nn.Module):
    """A convolution whose channels are then weighed by what the whole map shows."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _ConvBNReLU(in_channels, out_channels)
        self.conv_atten = _conv(out_channels, out_channels, 1)
        self.bn_atten = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(_global_average(x))).sigmoid()


class _ContextPath(nn.Module):
    """Image -> ResNet features at 1/8, and context features at 1/8 that have seen the whole image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resnet = _ResNet18(width)
        self.arm16 = _AttentionRefinement(4 * width, 2 * width)
        self.arm32 = _AttentionRefinement(8 * width, 2 * width)
        self.conv_head32 = _ConvBNReLU(2 * width, 2 * width)
        self.conv_head16 = _ConvBNReLU(2 * width, 2 * width)
        self.conv_avg = _ConvBNReLU(8 * width, 2 * width, kernel_size=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        eighth, sixteenth, thirty_second = self.resnet(x)
        context = self.arm32(thirty_second) + self.conv_avg(_global_average(thirty_second))
        context = self.conv_head32(F.interpolate(context, sixteenth.shape[2:], mode="nearest"))
        context = self.arm16(sixteenth) + context
        return eighth, self.conv_head16(F.interpolate(context, eighth.shape[2:], mode="nearest"))


class _FeatureFusion(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convblk = _ConvBNReLU(channels, channels, kernel_size=1)
        self.conv1 = _conv(channels, channels // 4, 1)
        self.conv2 = _conv(channels // 4, channels, 1)

    def forward(self, spatial: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        x = self.convblk(torch.cat([spatial, context], dim=1))
        return x + x * self.conv2(F.relu(self.conv1(_global_average(x)))).sigmoid()


class _Head(nn.Module):
    def __init__(self, in_channels: int, mid_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = _ConvBNReLU(in_channels, mid_channels)
        self.conv_out = _conv(mid_channels, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """The 19-class CelebAMask-HQ face parser (facexlib `parsing/bisenet.py:110`)."""

    def __init__(self, num_classes: int = 19, width: int = 64) -> None:
        """Builds the parser with random weights.

        Args:
            num_classes: number of labels.
            width: channels after the first convolution, 64 in the released weights; every other channel count is a
                multiple of it.
        """
        super().__init__()
        self.cp = _ContextPath(width)
        self.ffm = _FeatureFusion(4 * width)
        self.conv_out = _Head(4 * width, 4 * width, num_classes)
        # Heads of the training loss only: in the weight file, never run.
        self.conv_out16 = _Head(2 * width, width, num_classes)
        self.conv_out32 = _Head(2 * width, width, num_classes)

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, torch.Tensor]) -> BiSeNet:
        """The parser with these weights, in eval mode, without a copy of them.

        Args:
            state_dict: facexlib's parameter names -> tensors; sizes are read from the shapes.

        Raises:
            WeightsError: these are other weights.
        """
        first, last = "cp.resnet.conv1.weight", "conv_out.conv_out.weight"
        for name in (first, last):
            if name not in state_dict:
                raise WeightsError(
                    f"is not a BiSeNet face parser: {name} is missing; it looks like {describe_weights(state_dict)}"
                )
        with torch.device("meta"):
            parser = cls(num_classes=len(state_dict[last]), width=len(state_dict[first]))
        load_exactly(parser, state_dict)
        return parser.requires_grad_(False).eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Labels every pixel.

        Args:
            image: [B, 3, H, W] RGB, normalised by ImageNet's mean and deviation; device and dtype of the weights.

        Returns:
            Logits [B, num_classes, H, W].
        """
        logits = self.conv_out(self.ffm(*self.cp(image)))
        return F.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=True)


def to_gray(image: torch.Tensor) -> torch.Tensor:
    """RGB [B, 3, H, W] -> its luma in three equal channels, same shape and range (diffusers `consisid_utils.py:93`)."""
    red, green, blue = image.split(1, dim=1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).expand_as(image)


def normalized(image: torch.Tensor) -> torch.Tensor:
    """RGB [B, 3, H, W] in 0..1 as `BiSeNet.forward` takes it."""
    mean, std = (image.new_tensor(x).view(3, 1, 1) for x in (_IMAGENET_MEAN, _IMAGENET_STD))
    return (image - mean) / std


def label_pixels(parser: BiSeNet, image: torch.Tensor) -> torch.Tensor:
    """What each pixel shows.

    Args:
        parser: on any device and in any floating dtype.
        image: [B, 3, 512, 512] aligned crops, RGB 0..1.

    Returns:
        [B, 1, 512, 512] labels on the image's device.
    """
    logits = parser(normalized(image).to(parser.conv_out.conv_out.weight))
    return logits.argmax(dim=1, keepdim=True).to(image.device)


def whiten_background(parser: BiSeNet, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The face alone, on white (diffusers `consisid_utils.py:181-192`).

    Args:
        parser: on any device and in any floating dtype.
        image: [B, 3, 512, 512] aligned crops, RGB 0..1.

    Returns:
        (colour, gray), each [B, 3, 512, 512] in 0..1 on the image's device: colour for the VAE, gray for the EVA
        tower. Pixels of `WHITENED_LABELS` are 1 in both.
    """
    labels = label_pixels(parser, image)
    background = torch.isin(labels, labels.new_tensor(WHITENED_LABELS))
    colour, gray = keep_background(image)
    return colour.masked_fill(background, 1.0), gray.masked_fill(background, 1.0)


def keep_background(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The crop as it is: (colour, gray) in the form of `whiten_background`, without parsing."""
    return image, to_gray(image)
