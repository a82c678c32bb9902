"""The face pack's recogniser in torch, so that gradients pass through it: the nodes of its ONNX graph, one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...errors import ConsisIDError, in_short
from .onnx_weights import unpack_weights
from .producer import RECOGNISER_SIZE

_FLOAT, _INT, _INTS = 1, 2, 7
"""Kinds of attributes in ONNX."""


class Recogniser(nn.Module):
    """RGB crops to embeddings, equal to onnxruntime's."""

    def __init__(self, file: Path | str) -> None:
        """
        Args:
            file: SFace as the stand-in face pack holds it, .onnx.

        Raises:
            ConsisIDError: the file cannot be read, or it has a layer that this module does not know.
        """
        import onnx

        super().__init__()
        try:
            graph = onnx.load(str(file)).graph
        # protobuf's and onnx's errors have no common class.
        except Exception as error:
            raise ConsisIDError(f"{file} cannot be read as an ONNX net ({in_short(error)}).") from None
        unpack_weights(graph)
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        weights |= {
            node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
            for node in graph.node
            if node.op_type == "Constant"
        }
        self._nodes = [node for node in graph.node if node.op_type != "Constant"]
        if unknown := sorted({node.op_type for node in self._nodes} - set(_LAYERS)):
            raise ConsisIDError(
                f"{file} has layers that training cannot follow ({', '.join(unknown)}). Take the face pack with SFace: "
                "python -m consisid_core.dev.demo_face_pack writes it."
            )
        self._input = next(value.name for value in graph.input if value.name not in weights)
        self._output = graph.output[0].name
        self._buffer = {}
        for name in dict.fromkeys(name for node in self._nodes for name in node.input if name in weights):
            self._buffer[name] = f"weight_{len(self._buffer)}"
            self.register_buffer(self._buffer[name], torch.from_numpy(np.array(weights[name])))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, 112, 112] RGB 0..255 -> [B, 512]."""
        values = {name: getattr(self, buffer) for name, buffer in self._buffer.items()}
        values[self._input] = pixels
        for node in self._nodes:
            inputs = [values[name] for name in node.input if name]
            values[node.output[0]] = _LAYERS[node.op_type](_attributes(node), *inputs)
        return values[self._output]


def _attributes(node):
    kinds = {_FLOAT: lambda a: a.f, _INT: lambda a: a.i, _INTS: lambda a: list(a.ints)}
    return {a.name: kinds[a.type](a) for a in node.attribute if a.type in kinds}


def _conv(attributes, x, weight, bias=None):
    # SFace pads alike on both sides.
    return F.conv2d(
        x, weight, bias, attributes.get("strides", 1), attributes.get("pads", [0, 0])[:2],
        attributes.get("dilations", 1), attributes.get("group", 1),
    )  # fmt: skip


def _gemm(attributes, x, weight, bias):
    return attributes.get("alpha", 1.0) * (x @ (weight.T if attributes.get("transB") else weight)) + bias


_LAYERS = {
    "BatchNormalization": lambda a, x, weight, bias, mean, variance: F.batch_norm(
        x, mean, variance, weight, bias, eps=a.get("epsilon", 1e-5)
    ),
    "Conv": _conv,
    "Dropout": lambda a, x, *ratio: x,
    "Flatten": lambda a, x: x.flatten(1),
    "Gemm": _gemm,
    "MatMul": lambda a, x, y: x @ y,
    "Mul": lambda a, x, y: x * y,
    "PRelu": lambda a, x, slope: F.prelu(x, slope.flatten()),
    "Sub": lambda a, x, y: x - y,
}


def recogniser_crops(pictures: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
    """Crops as `recogniser_crop` of the face path cuts them, in one batch and differentiable.

    Args:
        pictures: [N, 3, H, H] in -1..1.
        landmarks: [N, 5, 2] (x, y) in pixels.

    Returns:
        [N, 3, 112, 112] in 0..255. Beyond the border its pixels go on.
    """
    from insightface.utils import face_align

    template = torch.as_tensor(face_align.arcface_dst, dtype=landmarks.dtype, device=landmarks.device)
    matrix, shift = _similarity(template, landmarks)
    line = torch.arange(RECOGNISER_SIZE, dtype=landmarks.dtype, device=landmarks.device)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    places = torch.einsum("nij,hwj->nhwi", matrix, grid) + shift[:, None, None]
    places = (places + 0.5) / pictures.shape[-1] * 2 - 1
    crops = F.grid_sample(pictures, places, align_corners=False, padding_mode="border")
    return (crops + 1) * 127.5


def _similarity(source, targets):
    """Rotation with scale [N, 2, 2] and shift [N, 2] that bring [5, 2] closest to each of [N, 5, 2]."""
    middle, middles = source.mean(0), targets.mean(1)
    x, y = (source - middle).unbind(-1)
    u, v = (targets - middles[:, None]).unbind(-1)
    size = (x.square() + y.square()).sum()
    cosine, sine = (x * u + y * v).sum(1) / size, (x * v - y * u).sum(1) / size
    matrix = torch.stack((torch.stack((cosine, -sine), -1), torch.stack((sine, cosine), -1)), dim=1)
    return matrix, middles - matrix @ middle
