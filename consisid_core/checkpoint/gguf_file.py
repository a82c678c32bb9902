"""GGUF files, by llama.cpp's own reader. They save disk; in memory the weights are bf16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConsisIDError
from .read_errors import reading
from .safetensors_file import StoredTensor

if TYPE_CHECKING:
    import torch


def read_gguf(file: Path, on_unpacked: Callable[[int, int], None]) -> dict[str, torch.Tensor]:
    """Unpack every tensor of a file.

    Args:
        file: a .gguf file.
        on_unpacked: called with the number of tensors done and of all after each; what it raises passes through.

    Returns:
        Name -> bf16 tensor.

    Raises:
        ConsisIDError: naming the file that is damaged, or the package that is missing.
    """
    import torch

    gguf = _library(file)
    tensors = {}
    with reading(file):
        reader = gguf.GGUFReader(file)
    for packed in reader.tensors:
        with reading(file):
            values = gguf.quants.dequantize(packed.data, packed.tensor_type)
            # A copy, because it is unpacked values or a read-only view of the file.
            tensors[packed.name] = torch.tensor(values).to(torch.bfloat16).reshape(_shape(reader, packed))
        on_unpacked(len(tensors), len(reader.tensors))
    return tensors


def list_gguf(file: Path) -> dict[str, StoredTensor]:
    """Names and shapes of the tensors of a file, as `read_gguf` gives them. Raises as it does."""
    gguf = _library(file)
    with reading(file):
        reader = gguf.GGUFReader(file)
        return {
            packed.name: StoredTensor(
                file,
                packed.tensor_type.name,
                _shape(reader, packed),
                packed.data_offset,
                packed.data_offset + packed.n_bytes,
            )
            for packed in reader.tensors
        }


def _library(file):
    try:
        import gguf
    except ImportError as error:
        raise ConsisIDError(
            f"{file} needs the Python package gguf, which does not import here ({error}). Install it into ComfyUI's "
            "Python (pip install gguf) and restart, or choose a .safetensors file."
        ) from None
    return gguf


def _shape(reader, packed):
    """The shape before packing, which ComfyUI-GGUF's converter notes where it changed it."""
    noted = reader.get_field(f"comfy.gguf.orig_shape.{packed.name}")
    return tuple(noted.contents() if noted else packed.shape[::-1].tolist())
