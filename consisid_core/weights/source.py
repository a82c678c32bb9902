"""Reading names, shapes and values of a checkpoint without holding it in memory."""

import json
import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.files import DEMO_MARKER, checkpoint_files, parse_json
from ..errors import ConsisIDError

ITEM_SIZES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""safetensors' names of number formats -> bytes of one number."""

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".bin", ".pth", ".pt", ".ckpt")
_MAX_HEADER = 100_000_000  # safetensors' own limit.


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a .safetensors file. dtype: safetensors' name; start, end: bytes from the beginning of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Source:
    """A checkpoint: parameter name -> StoredTensor, or a tensor of torch if it comes from a pickle."""

    tensors: dict
    metadata: dict
    config: dict
    files: list[Path]

    @property
    def shapes(self):
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    @property
    def is_demo(self):
        return DEMO_MARKER in self.metadata

    @property
    def size(self):
        return sum(file.stat().st_size for file in self.files)


def read_header(file):
    """(name -> StoredTensor, metadata) of a .safetensors file. Raises ConsisIDError if it is truncated or damaged."""
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
        sound = all(begin <= t.start <= t.end and t.end - t.start == _byte_count(t, file) for t in tensors.values())
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ConsisIDError(f"{file} has a header that describes no tensors. It is damaged; download it again.")
    if end > size:
        raise ConsisIDError(f"{file} is truncated: it holds {size:,} of {end:,} bytes. Download it again.")
    return tensors, metadata


def read_bytes(tensor):
    """The content of a small tensor of bytes."""
    if not isinstance(tensor, StoredTensor):
        return bytes(tensor.tolist())
    with open(tensor.file, "rb") as stream:
        stream.seek(tensor.start)
        return stream.read(tensor.end - tensor.start)


def _byte_count(tensor, file):
    if tensor.dtype not in ITEM_SIZES:
        raise ConsisIDError(f"{file} holds numbers in the format {tensor.dtype}, which this command does not read.")
    count = ITEM_SIZES[tensor.dtype]
    for length in tensor.shape:
        count *= length
    return count


def open_source(path):
    """The Source of a weight file or of a folder of shards. Values stay in the files, mapped.

    Raises ConsisIDError naming the file: missing, truncated, damaged, with Python objects, or in disagreement with the
    index of its folder.
    """
    path = Path(path)
    files, config = checkpoint_files(path)
    tensors, metadata, homes = {}, {}, {}
    for file in files:
        try:
            is_safetensors = file.suffix.lower() in SAFETENSORS
            found, noted = read_header(file) if is_safetensors else _read_pickle(file)
        except FileNotFoundError:
            raise ConsisIDError(f"{file} does not exist.") from None
        except OSError as error:
            raise ConsisIDError(f"{file} cannot be read ({error.strerror or error}).") from None
        if doubled := sorted(tensors.keys() & found.keys()):
            raise ConsisIDError(
                f"{file} repeats {len(doubled)} parameters of another shard ({', '.join(doubled[:3])}): files of two "
                "checkpoints are mixed. Download the folder again into an empty one."
            )
        tensors.update(found)
        metadata.update(noted)
        homes.update(dict.fromkeys(found, file.name))
    if path.is_dir():
        _check_index(path, homes)
    if not config and "config" in metadata:
        config = parse_json(metadata["config"], f"The config in the metadata of {path}")
    return Source(tensors, metadata, config, files)


def read_tensors(path):
    """(name -> tensor, whether they are demo weights) of a weight file or of a folder of shards, as `open_source`."""
    source = open_source(path)
    if any(isinstance(tensor, StoredTensor) for tensor in source.tensors.values()):
        from safetensors.torch import load_file

        return {name: tensor for file in source.files for name, tensor in load_file(file).items()}, source.is_demo
    return source.tensors, source.is_demo


def _check_index(folder, homes):
    index = (sorted(folder.glob("*.safetensors.index.json")) or sorted(folder.glob("*.index.json")))[0]
    stated = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    wrong = sorted(name for name in stated.keys() | homes.keys() if stated.get(name) != homes.get(name))
    if wrong:
        raise ConsisIDError(
            f"{index} does not fit its shards: {len(wrong)} parameters are not in the file that it names "
            f"({', '.join(wrong[:3])}). Download the folder again."
        )


def _read_pickle(file):
    if file.suffix.lower() not in PICKLES:
        raise ConsisIDError(f"{file} is not a weight file: {', '.join(SAFETENSORS + PICKLES)} are read.")
    import torch

    try:
        # Files older than torch 1.6 are no zip archives and cannot be mapped.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file) or None)
    except OSError:
        raise
    # Whatever a damaged file makes torch raise means the same to the user.
    except Exception as error:
        if "GLOBAL " in str(error):
            raise ConsisIDError(
                f"{file} holds Python objects besides tensors. They are not loaded, because they can run any code. "
                "Download it again, or take a .safetensors file."
            ) from None
        first = str(error).split("\n")[0][:200]
        raise ConsisIDError(
            f"{file} cannot be read as a weight file ({type(error).__name__}: {first}). It is damaged or incomplete: "
            f"{file.stat().st_size:,} bytes. Download it again."
        ) from None
    # Training scripts save counters and settings beside the tensors.
    pairs = content.items() if isinstance(content, dict) else ()
    tensors = {name: value for name, value in pairs if isinstance(name, str) and isinstance(value, torch.Tensor)}
    is_demo = tensors.pop(DEMO_MARKER, None) is not None
    if not tensors:
        raise ConsisIDError(f"{file} holds no named tensors. Choose another file.")
    return tensors, {DEMO_MARKER: "random weights"} if is_demo else {}
