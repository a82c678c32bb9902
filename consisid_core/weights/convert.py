"""One .safetensors file from any form of a checkpoint, written in a stream: a few hundred MB of memory at any size."""

import json
import math
import os
import shutil
import struct
from pathlib import Path

from ..checkpoint.fit import about
from ..checkpoint.net_config import diffusers_config
from ..errors import ConsisIDError
from .layout import human, is_disk_full
from .nets import QUANTISED, identify, transformer_tensors
from .source import ITEM_SIZES, StoredTensor, open_source

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32", "fp8_e4m3fn": "F8_E4M3", "fp8_e5m2": "F8_E5M2"}
"""Number formats to convert to -> safetensors' names of them."""

_FP8 = ("F8_E4M3", "F8_E5M2")
_CHUNK = 1 << 22  # Numbers at a time: 16 MB in fp32.

UNCAST = ("patch_embed.pos_embedding", "local_facial_extractor.latents", "local_facial_extractor.proj_out")
"""Parameters of the transformer that no layer casts as it runs; the loader keeps them in bf16 beside fp8 weights."""


def convert(source_path, target, dtype):
    """Write a checkpoint as one .safetensors file with diffusers' names, config and this number format.

    source_path: transformer, VAE or T5, in any form that `open_source` reads. dtype: a key of DTYPES; numbers are cast
    as torch casts, which is what the loader does with `weight_dtype`; whole numbers stay as they are.
    Returns the number of parameters and of bytes written. Raises ConsisIDError, leaving nothing at target, if that
    exists already or cannot be written, the source is damaged or of another kind, or a value does not fit the format.
    """
    target = Path(target)
    if target.suffix != ".safetensors":
        raise ConsisIDError(f"{target} must end in .safetensors, so that ComfyUI finds and reads it.")
    if os.path.lexists(target):
        raise ConsisIDError(f"{target} exists already. Choose another name or delete it first.")
    source = open_source(source_path)
    tensors, metadata = _contents(source, source_path, dtype)
    header, size = _header(tensors, metadata, dtype)
    _write(target, header, tensors, dtype, size)
    return len(tensors), size


def _contents(source, path, dtype):
    kind = identify(source.tensors)
    quantised = [name for name in source.tensors if name.endswith(QUANTISED)]
    if kind is None or quantised:
        what = f"holds scaled or quantised weights ({quantised[0]})" if quantised else "is no transformer, VAE or T5"
        raise ConsisIDError(f"{path} {what}, which cannot be converted. Take the released weights.")
    if kind == "vae" and DTYPES[dtype] in _FP8:
        raise ConsisIDError(f"{path} is a VAE, which does not run in fp8. Choose bf16, fp16 or fp32.")
    tensors, metadata = source.tensors, {**source.metadata, "format": "pt"}
    if source.config:
        metadata["config"] = json.dumps(source.config)
    if kind == "transformer":
        with about(path, "Take the released weights."):
            tensors, config = transformer_tensors(source)
        # Without stale keys, so that the file says of itself what its shapes cannot.
        metadata["config"] = json.dumps(diffusers_config(config))
    # The widest numbers first, so that each tensor begins at a multiple of its number's size.
    order = sorted(tensors, key=lambda name: (-ITEM_SIZES[_format(name, tensors[name], dtype)], name))
    return {name: tensors[name] for name in order}, metadata


def _format(name, tensor, dtype):
    """safetensors' name of the number format in which a parameter is written."""
    stored = tensor.dtype if isinstance(tensor, StoredTensor) else _formats()[tensor.dtype]
    if stored[0] not in "FB" or stored == "BOOL":
        return stored
    return "BF16" if DTYPES[dtype] in _FP8 and name in UNCAST else DTYPES[dtype]


def _formats():
    """torch's number formats -> safetensors' names of them."""
    import torch

    return {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32",
        torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    }  # fmt: skip


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

    formats = {name: torch_dtype for torch_dtype, name in _formats().items()}
    yield header
    for name, tensor in tensors.items():
        wanted = formats[_format(name, tensor, dtype)]
        for values in _values(tensor, formats):
            cast = values.to(wanted)
            if values.is_floating_point() and not cast.float().isfinite().all():
                raise ConsisIDError(_not_finite(name, values.float(), dtype))
            yield cast.contiguous().view(torch.uint8).numpy().data


def _values(tensor, formats):
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
            yield torch.frombuffer(bytearray(block), dtype=formats[tensor.dtype])


def _not_finite(name, values, dtype):
    if not values.isfinite().all():
        return f"{name} holds NaN or infinity: the source is damaged. Download it again."
    largest = values.abs().max()
    return f"{name} holds {largest:g}, which does not fit {dtype}. Choose bf16 or fp32, which hold larger numbers."
