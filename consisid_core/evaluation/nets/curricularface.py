"""The recogniser of FaceSim-Cur: CurricularFace (arXiv 2004.00288) with an IR-101 backbone. Parameter names are those
of TFace's `model_irse.py`, so the released `glint360k_curricular_face_r101_backbone.bin` loads as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import nn

from ...checkpoint.fit import describe_weights, load_exactly
from ...errors import WeightsError

INPUT_SIZE = 112
"""Side of the square picture that the recogniser takes."""

EMBEDDING_DIM = 512

_IR_101 = ((64, 3), (128, 13), (256, 30), (512, 3))
_OUTPUT_SIZE = 7  # the side that is left when each of four stages has halved 112


def _conv(in_channels, out_channels, kernel_size, stride=1):
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)


class _Unit(nn.Module):
    def __init__(self, in_channels, channels, stride):
        super().__init__()
        if in_channels == channels:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(_conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            _conv(in_channels, channels, 3),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            _conv(channels, channels, 3, stride),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class CurricularFace(nn.Module):
    """The IR-101 recogniser (TFace `model_irse.py:194`, `IR_101`)."""

    def __init__(self, stages: Sequence[tuple[int, int]] = _IR_101) -> None:
        """
        Args:
            stages: channels and number of units of each of the four stages, by default the released sizes. A stage
                begins with a unit that halves the picture.
        """
        super().__init__()
        channels = stages[0][0]
        self.input_layer = nn.Sequential(_conv(3, channels, 3), nn.BatchNorm2d(channels), nn.PReLU(channels))
        units = []
        for width, depth in stages:
            units.append(_Unit(channels, width, stride=2))
            units.extend(_Unit(width, width, stride=1) for _ in range(depth - 1))
            channels = width
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(channels * _OUTPUT_SIZE**2, EMBEDDING_DIM),
            nn.BatchNorm1d(EMBEDDING_DIM, affine=False),
        )

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, torch.Tensor]) -> CurricularFace:
        """The recogniser with these weights, in eval mode, without a copy of them.

        Args:
            state_dict: TFace's parameter names -> tensors, with or without BatchNorm's counters; sizes are read from
                the shapes.

        Raises:
            WeightsError: these are other weights.
        """
        for name in ("input_layer.0.weight", "body.0.res_layer.1.weight", "output_layer.3.weight"):
            if name not in state_dict:
                raise WeightsError(
                    "is not a CurricularFace recogniser with an IR-101 backbone: "
                    f"{name} is missing; it looks like {describe_weights(state_dict)}"
                )
        widths = []
        while (name := f"body.{len(widths)}.res_layer.1.weight") in state_dict:
            widths.append(len(state_dict[name]))
        stages = [(width, len(list(units))) for width, units in groupby(widths)]
        if len(stages) != len(_IR_101):
            raise WeightsError(
                f"does not fit: an IR backbone of {len(widths)} units in {len(stages)} stages, where {len(_IR_101)} "
                f"stages are needed, or {name} is missing"
            )
        with torch.device("meta"):
            recogniser = cls(stages)
        load_exactly(recogniser, state_dict)
        return recogniser.requires_grad_(False).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings of faces.

        Args:
            x: [N, 3, 112, 112], RGB -1..1, as `preprocess` makes it.

        Returns:
            [N, 512], not normalised.
        """
        return self.output_layer(self.body(self.input_layer(x)))


def preprocess(crop: np.ndarray) -> torch.Tensor:
    """An aligned face as the recogniser takes it (ConsisID `eval/get_facesim_fid.py:69-74`).

    Args:
        crop: uint8 [H, H, 3], RGB, insightface's `norm_crop` at 224.

    Returns:
        float32 [1, 3, 112, 112], -1..1.
    """
    import cv2

    small = cv2.resize(crop, (INPUT_SIZE, INPUT_SIZE))
    x = torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1))).unsqueeze(0).float()
    return x.div(255).sub(0.5).div(0.5)
