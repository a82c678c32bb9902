"""One .safetensors file from any form of a checkpoint, written in a stream: a few hundred MB of memory at any size."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from pathlib import Path

from ..checkpoint.files import DEMO_MARKER, GGUF
from ..checkpoint.fit import about
from ..checkpoint.net_config import diffusers_config
from ..checkpoint.nets import identify, transformer_weights
from ..checkpoint.quantization import SETTINGS
from ..checkpoint.reading import list_checkpoint
from ..checkpoint.safetensors_file import FORMAT_NAMES, ITEM_SIZES, StoredTensor
from ..errors import ConsisIDError
from .parts import human, is_disk_full

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32", "fp8_e4m3fn": "F8_E4M3", "fp8_e5m2": "F8_E5M2"}
"""Number formats to convert to -> safetensors' names of them."""

_FP8 = ("F8_E4M3", "F8_E5M2")
_CHUNK = 1 << 22  # Numbers at a time: 16 MB in fp32.

UNCAST = ("patch_embed.pos_embedding", "local_facial_extractor.latents", "local_facial_extractor.proj_out")
"""Parameters of the transformer that no layer casts as it runs; the loader keeps them in bf16 beside fp8 weights."""


def convert(source_path: Path | str, target: Path | str, dtype: str) -> tuple[int, int]:
    """Write a checkpoint as one .safetensors file with diffusers' names, config and this number format.

    Args:
        source_path: transformer, VAE or T5: .safetensors or a pickle, one file or a folder of shards.
        target: the file to write.
        dtype: a key of DTYPES; numbers are cast as torch casts, which is what the loader does with `weight_dtype`;
            whole numbers stay as they are.

    Returns:
        The number of parameters and of bytes written.

    Raises:
        ConsisIDError: target exists already or cannot be written, the source is damaged or of another kind, or a value
            does not fit the format. Nothing is left at target then.
    """
    target = Path(target)
    if target.suffix != ".safetensors":
        raise ConsisIDError(f"{target} must end in .safetensors, so that ComfyUI finds and reads it.")
    if os.path.lexists(target):
        raise ConsisIDError(f"{target} exists already. Choose another name or delete it first.")
    tensors, metadata = _contents(list_checkpoint(source_path), dtype)
    header, size = _header(tensors, metadata, dtype)
    _write(target, header, tensors, dtype, size)
    return len(tensors), size


def _contents(source, dtype):
    """(name -> tensor in the order of the file, its metadata)."""
    kind = identify(source.tensors)
    packed = [name for name in source.tensors if name.endswith(SETTINGS)]
    packed += [file.name for file in source.files if file.suffix.lower() == GGUF]
    if kind is None or packed:
        what = f"holds scaled or quantised weights ({packed[0]})" if packed else "is no transformer, VAE or T5"
        raise ConsisIDError(f"{source.path} {what}, which cannot be converted. Take the released weights.")
    if kind == "vae" and DTYPES[dtype] in _FP8:
        raise ConsisIDError(f"{source.path} is a VAE, which does not run in fp8. Choose bf16, fp16 or fp32.")
    strange = {str(tensor.dtype) for tensor in source.tensors.values()} - {*ITEM_SIZES, *FORMAT_NAMES}
    if strange:
        raise ConsisIDError(f"{source.path} holds numbers in the format {strange.pop()}, which cannot be converted.")
    tensors, metadata = source.tensors, {**source.metadata, "format": "pt"}
    if source.config:
        metadata["config"] = json.dumps(source.config)
    if source.is_demo:
        metadata.setdefault(DEMO_MARKER, "random weights")
    if kind == "transformer":
        with about(source.path, "Take the released weights"):
            transformer = transformer_weights(source)
        # Without stale keys, so that the file says of itself what its shapes cannot.
        tensors, metadata["config"] = transformer.state_dict, json.dumps(diffusers_config(transformer.config))
    # The widest numbers first, so that each tensor begins at a multiple of its number's size.
    order = sorted(tensors, key=lambda name: (-ITEM_SIZES[_format(name, tensors[name], dtype)], name))
    return {name: tensors[name] for name in order}, metadata


def _format(name, tensor, dtype):
    """safetensors' name of the number format in which a parameter is written."""
    stored = tensor.dtype if isinstance(tensor, StoredTensor) else FORMAT_NAMES[str(tensor.dtype)]
    if stored[0] not in "FB" or stored == "BOOL":
        return stored
    return "BF16" if DTYPES[dtype] in _FP8 and name in UNCAST else DTYPES[dtype]


def _header(tensors, metadata, dtype):
    entries, offset = {"__metadata__": metadata}, 0
    for name, tensor in tensors.items():
        stored = _format(name, tensor, dtype)
        end = offset + math.prod(tensor.shape) * ITEM_SIZES[stored]
        entries[name] = {"dtype": stored, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + offset


def _write(target, header, tensors, dtype, size):
    from tqdm import tqdm

    partial = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if size > free:
            raise ConsisIDError(
                f"{target} will take {human(size)}, but its disk has {human(free)} free. Make room or write elsewhere."
            )
        with open(partial, "wb") as stream, tqdm(total=size, unit="B", unit_scale=True, desc=target.name) as progress:
            for block in _blocks(header, tensors, dtype):
                stream.write(block)
                progress.update(len(block))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
    except OSError as error:
        reason = "the disk is full" if is_disk_full(error) else error.strerror or error
        raise ConsisIDError(f"{target} cannot be written: {reason}. Make room or write elsewhere.") from None
    finally:
        partial.unlink(missing_ok=True)


def _blocks(header, tensors, dtype):
    """The bytes of the file, a block at a time."""
    import torch

    yield header
    for name, tensor in tensors.items():
        wanted = _torch_dtype(_format(name, tensor, dtype))
        for values in _values(tensor):
            cast = values.to(wanted)
            if values.is_floating_point() and not cast.float().isfinite().all():
                raise ConsisIDError(_not_finite(name, values.float(), dtype))
            yield cast.contiguous().view(torch.uint8).numpy().data


def _torch_dtype(name):
    import torch

    return next(getattr(torch, key.removeprefix("torch.")) for key, value in FORMAT_NAMES.items() if value == name)


def _values(tensor):
    """The numbers of a tensor, some at a time, as one-dimensional tensors."""
    import torch

    if not isinstance(tensor, StoredTensor):
        flat = tensor.detach().reshape(-1)
        for start in range(0, flat.numel(), _CHUNK):
            yield flat[start : start + _CHUNK]
        return
    with open(tensor.file, "rb") as stream:
        stream.seek(tensor.start)
        left = tensor.end - tensor.start
        while left:
            block = stream.read(min(left, _CHUNK * ITEM_SIZES[tensor.dtype]))
            if not block:
                raise ConsisIDError(f"{tensor.file} became shorter while it was read. Download it again.")
            left -= len(block)
            yield torch.frombuffer(bytearray(block), dtype=_torch_dtype(tensor.dtype))


def _not_finite(name, values, dtype):
    if not values.isfinite().all():
        return f"{name} holds NaN or infinity: the source is damaged. Download it again."
    largest = values.abs().max()
    return f"{name} holds {largest:g}, which does not fit {dtype}. Choose bf16 or fp32, which hold larger numbers."
