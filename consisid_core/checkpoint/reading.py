"""The one way to read a weight file, in whatever form people have it: tensors, config, and what is noted with them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConsisIDError
from .files import DEMO_MARKER, GGUF, PICKLES, SAFETENSORS, check_index, checkpoint_files, parse_json
from .gguf_file import list_gguf, read_gguf
from .quantization import noted_quantization
from .read_errors import reading
from .safetensors_file import StoredTensor, read_header

if TYPE_CHECKING:
    import torch

ReadFile = Callable[[Path], "tuple[dict, dict[str, str] | None]"]
"""From a .safetensors file or a pickle to (name -> tensor, metadata), raising whatever its library raises."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What one weight file or one folder of shards holds."""

    path: Path
    files: tuple[Path, ...]
    tensors: dict[str, torch.Tensor | StoredTensor]
    """By parameter name. Those of .safetensors files are views of the mapped file until something writes to them."""
    metadata: dict[str, str]
    """Of .safetensors files."""
    config: dict
    """diffusers', or {}."""
    is_demo: bool
    """Whether a file is marked as random demo weights."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def read_checkpoint(
    path: Path | str,
    read_file: ReadFile | None = None,
    on_unpacked: Callable[[int, int], None] = lambda done, total: None,
) -> Checkpoint:
    """Read a checkpoint; of a pickle nothing but tensors, GGUF blocks unpacked to bf16.

    Quantisation that ComfyUI notes in a file's metadata comes as its `<layer>.comfy_quant` tensors.

    Args:
        path: a weight file, or a folder as `checkpoint_files` takes it.
        read_file: another library's reader, such as ComfyUI's; by default safetensors' and torch's, which map files.
        on_unpacked: called with the number of tensors unpacked from a GGUF file and of all; it may raise.

    Raises:
        ConsisIDError: naming the file that is missing, truncated, damaged, too large for the memory, without tensors,
            with Python objects besides them, or in disagreement with the index of its folder.
    """
    read_file = read_file or _read_mapped

    def read(file):
        if file.suffix.lower() == GGUF:
            return read_gguf(file, on_unpacked), None
        with reading(file):
            return read_file(file)

    return _joined(Path(path), read)


def list_checkpoint(path: Path | str) -> Checkpoint:
    """As `read_checkpoint`, but tensors are StoredTensors, which takes no time; those of a pickle stay mapped."""
    return _joined(Path(path), list_file)


def list_file(file: Path) -> tuple[dict, dict[str, str] | None]:
    """What `list_checkpoint` takes from one of its files.

    Returns:
        (name -> tensor, metadata of a .safetensors file).

    Raises:
        ConsisIDError: the file is truncated or damaged, as far as that can be told without reading its values.
    """
    if file.suffix.lower() == GGUF:
        return list_gguf(file), None
    with reading(file):
        return read_header(file) if file.suffix.lower() in SAFETENSORS else (_read_pickle(file), None)


def _joined(path, read):
    """The Checkpoint of all its files."""
    files, config = checkpoint_files(path)
    joined, metadata, homes = {}, {}, {}
    for file in files:
        tensors, noted = read(file)
        tensors = _named_tensors(tensors, file)
        if doubled := sorted(homes.keys() & tensors.keys() - {DEMO_MARKER}):
            raise ConsisIDError(
                f"{file} repeats {len(doubled)} parameters of another shard ({', '.join(doubled[:3])}). Files of two "
                "downloads are mixed in this folder; download it again into an empty one."
            )
        homes |= dict.fromkeys(tensors, file.name)
        joined |= tensors
        if noted:
            metadata |= noted
            joined |= noted_quantization(noted, file)
            if not config and "config" in noted:
                config = parse_json(noted["config"], f"The config in the metadata of {file}")
    is_marked = joined.pop(DEMO_MARKER, None) is not None  # Of a pickle, which has no metadata.
    homes.pop(DEMO_MARKER, None)
    if path.is_dir():
        check_index(path, homes)
    return Checkpoint(path, tuple(files), joined, metadata, config, is_marked or DEMO_MARKER in metadata)


def _named_tensors(content, file):
    # Training scripts save counters and settings beside the tensors.
    pairs = content.items() if isinstance(content, dict) else ()
    tensors = {name: value for name, value in pairs if isinstance(name, str) and hasattr(value, "shape")}
    if not tensors:
        raise ConsisIDError(f"{file} holds no named tensors. Download it again or choose another.")
    return tensors


def _read_mapped(file):
    if file.suffix.lower() not in SAFETENSORS:
        return _read_pickle(file), None
    from safetensors import safe_open

    _, metadata = read_header(file)  # Says how much of a truncated file there is.
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, metadata  # noqa: SIM118


def _read_pickle(file):
    if file.suffix.lower() not in PICKLES:
        known = ", ".join((*SAFETENSORS, *PICKLES, GGUF))
        raise ConsisIDError(f"{file} is not a weight file: {known} are read.")
    import torch

    # Files older than torch 1.6, and some that are published today, are no zip archives and cannot be mapped.
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file) or None)
    return content.get("state_dict", content) if isinstance(content, dict) else content
