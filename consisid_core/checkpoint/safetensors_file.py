"""What a .safetensors file says of itself: names, shapes, types and places of its tensors, without their values."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConsisIDError
from .files import parse_json

_FORMATS = (
    ("F64", 8, "float64"), ("F32", 4, "float32"), ("F16", 2, "float16"), ("BF16", 2, "bfloat16"),
    ("F8_E4M3", 1, "float8_e4m3fn"), ("F8_E5M2", 1, "float8_e5m2"), ("F8_E8M0", 1, "float8_e8m0fnu"),
    ("I64", 8, "int64"), ("I32", 4, "int32"), ("I16", 2, "int16"), ("I8", 1, "int8"), ("U64", 8, "uint64"),
    ("U32", 4, "uint32"), ("U16", 2, "uint16"), ("U8", 1, "uint8"), ("BOOL", 1, "bool"), ("C64", 8, "complex64"),
)  # fmt: skip

ITEM_SIZES = {name: size for name, size, _ in _FORMATS}
"""safetensors' names of number formats -> bytes of one number."""

FORMAT_NAMES = {f"torch.{torch_name}": name for name, _, torch_name in _FORMATS}
"""torch's names of number formats, as str(dtype), -> safetensors'."""

_MAX_HEADER = 100_000_000  # safetensors' own limit.


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in its .safetensors file."""

    file: Path
    dtype: str
    """safetensors' name of the number format."""
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the beginning of the file."""
    end: int
    """Byte after the last."""

    def is_floating_point(self) -> bool:
        """As of a torch.Tensor."""
        return self.dtype[0] in "FB" and self.dtype != "BOOL"

    def tolist(self) -> list[int]:
        """As of a torch.Tensor of bytes, which are the only values read here: settings among the weights."""
        with open(self.file, "rb") as stream:
            stream.seek(self.start)
            return list(stream.read(self.end - self.start))


def read_header(file: Path | str) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors and the metadata that a .safetensors file lists.

    Returns:
        (name -> StoredTensor, metadata).

    Raises:
        ConsisIDError: the file is truncated or damaged.
        OSError: it cannot be read.
    """
    size = os.path.getsize(file)
    with open(file, "rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _MAX_HEADER
        if length >= _MAX_HEADER or 8 + length > size:
            raise ConsisIDError(
                f"{file} is not a complete .safetensors file: {size:,} bytes, without a whole header. Download it "
                "again."
            )
        header = parse_json(stream.read(length), f"The header of {file}")
    metadata = header.pop("__metadata__", None) or {}
    begin = 8 + length
    try:
        tensors = {
            name: StoredTensor(
                Path(file), entry["dtype"], tuple(entry["shape"]), *(begin + offset for offset in entry["data_offsets"])
            )
            for name, entry in header.items()
        }
        end = max((tensor.end for tensor in tensors.values()), default=begin)
        sound = all(begin <= t.start <= t.end and _is_whole(t) for t in tensors.values())
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ConsisIDError(f"{file} has a header that describes no tensors. It is damaged; download it again.")
    if end > size:
        raise ConsisIDError(f"{file} is truncated: it holds {size:,} of {end:,} bytes. Download it again.")
    return tensors, metadata


def _is_whole(tensor):
    """Whether a tensor has the bytes that its shape asks for, where the size of its numbers is known."""
    size = ITEM_SIZES.get(tensor.dtype)
    return size is None or tensor.end - tensor.start == size * math.prod(tensor.shape)
