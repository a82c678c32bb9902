"""Reading weight files through ComfyUI's loader, with errors that name the file and the cure."""

import json
import logging
import re
from pathlib import Path

import comfy.model_management
import comfy.utils
import torch

from ..checkpoint.files import DEMO_MARKER, checkpoint_files, parse_json
from ..errors import ConsisIDError, in_short


def read_state_dict(path):
    """All tensors of a weight file or of a folder of shards, and diffusers' config if there is one.

    Tensors of .safetensors files stay mapped: they are views of the file until something writes to them. GGUF blocks
    are unpacked to bf16. Nothing is unpickled but tensors. Quantisation that ComfyUI notes in a file's metadata comes
    as its `<layer>.comfy_quant` tensors. Logs one line if the file holds random demo weights.
    Raises ConsisIDError if a file is missing, truncated, corrupt, holds no tensors or holds NaN or infinity.
    """
    files, config = checkpoint_files(path)
    state_dict, demo = {}, False
    for file in files:
        _check_readable(file)
        tensors, metadata = _read_gguf(file) if file.suffix.lower() == ".gguf" else _read_file(file)
        metadata = metadata or {}
        demo |= DEMO_MARKER in metadata or tensors.pop(DEMO_MARKER, None) is not None
        config = config or parse_json(metadata.get("config", "{}"), f"The config in the metadata of {file}")
        quantized = parse_json(metadata.get("_quantization_metadata", "{}"), f"The metadata of {file}").get("layers")
        if not isinstance(quantized, dict | None):
            raise ConsisIDError(f"The metadata of {file} name no layers by their quantisation. Download it again.")
        for layer, settings in (quantized or {}).items():
            tensors[f"{layer}.comfy_quant"] = json_tensor(settings)
        _check_finite(tensors, file)
        if doubled := sorted(state_dict.keys() & tensors.keys()):
            raise ConsisIDError(
                f"{file} repeats {len(doubled)} parameters of another shard ({', '.join(doubled[:3])}). Files of two "
                "downloads are mixed in this folder; download it again into an empty one."
            )
        state_dict.update(tensors)
    if demo:
        log_demo_weights(path)
    return state_dict, config


def json_tensor(content):
    """JSON as bytes in a tensor [N] uint8, as ComfyUI keeps settings among weights."""
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


def _read_file(file):
    try:
        content, metadata = comfy.utils.load_torch_file(str(file), safe_load=True, return_metadata=True)
    # Whatever a damaged file makes the readers raise means the same to the user.
    except Exception as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise ConsisIDError(
                f"{file} holds Python objects ({code[1]}) besides tensors. They are not loaded, because they can run "
                "any code. Choose a file of tensors only, at best .safetensors."
            ) from None
        raise _unreadable(file, error) from None
    # Training scripts save counters and settings beside the tensors.
    tensors = {
        name: value
        for name, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise ConsisIDError(f"{file} holds no named tensors. Download it again or choose another.")
    return tensors, metadata


def _read_gguf(file):
    """Tensors of a GGUF file in bf16, in the shapes that ComfyUI-GGUF's converter notes where it changed them."""
    try:
        import gguf
    except ImportError as error:
        raise ConsisIDError(
            f"{file} needs the Python package gguf, which does not import here ({error}). Install it into ComfyUI's "
            "Python (pip install gguf) and restart, or choose a .safetensors file."
        ) from None
    try:
        reader = gguf.GGUFReader(file)
        tensors, progress = {}, comfy.utils.ProgressBar(len(reader.tensors))
        for packed in reader.tensors:
            comfy.model_management.throw_exception_if_processing_interrupted()
            noted = reader.get_field(f"comfy.gguf.orig_shape.{packed.name}")
            shape = noted.contents() if noted else packed.shape[::-1].tolist()
            values = gguf.quants.dequantize(packed.data, packed.tensor_type)
            # A copy, because it is unpacked values or a read-only view of the file.
            tensors[packed.name] = torch.tensor(values).to(torch.bfloat16).reshape(shape)
            progress.update(1)
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:
        raise _unreadable(file, error) from None
    return tensors, {}


def _check_readable(file):
    """Tell apart what safetensors calls a missing file, whatever the cause."""
    try:
        file.open("rb").close()
    except FileNotFoundError:
        raise ConsisIDError(f"{file} does not exist. Put the file there or choose another.") from None
    except PermissionError:
        raise ConsisIDError(f"{file} may not be read by the user that runs ComfyUI. Change its permissions.") from None
    except OSError as error:
        raise ConsisIDError(f"{file} cannot be read ({error.strerror}). Choose another.") from None


def _unreadable(file, error):
    return ConsisIDError(
        f"{file} cannot be read as a weight file ({in_short(error)}). It is damaged, incomplete or of another "
        f"kind; its size is {Path(file).stat().st_size:,} bytes. Download it again."
    )


def _check_finite(tensors, file):
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not _is_finite(tensor)]
    if broken:
        raise ConsisIDError(
            f"{file} holds values that are not finite numbers (NaN or infinity) in {len(broken)} parameters "
            f"({', '.join(broken[:10])}{', …' if len(broken) > 10 else ''}): videos would be black. It is damaged or "
            "was converted wrongly; download it again."
        )


def _is_finite(tensor):
    if tensor.numel() == 0:
        return True
    if tensor.dtype == torch.float8_e4m3fn:  # All but one of its exponent's and mantissa's bits set are numbers.
        return bool((tensor.view(torch.int8) & 0x7F).max() < 0x7F)
    if tensor.dtype == torch.float8_e5m2:
        return bool((tensor.view(torch.int8) & 0x7F).max() < 0x7C)
    # One pass without a copy; both ends are NaN if any value is.
    return all(end.isfinite() for end in torch.aminmax(tensor))


def log_demo_weights(path):
    logging.getLogger("consisid").warning(
        "%s holds random demo weights: results are noise. See the pack's README for the released weights.", path
    )
