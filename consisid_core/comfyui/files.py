"""Reading weight files through ComfyUI's loader, with errors that name the file and the cure."""

import logging
import re
from contextlib import contextmanager
from pathlib import Path

import comfy.utils
import torch

from ..checkpoint import DEMO_MARKER, checkpoint_files, parse_json
from ..errors import ConsisIDError


@contextmanager
def about(path, remedy):
    """Fit a file's weights to a net inside: what goes wrong there becomes the file's name, the cause and the remedy."""
    try:
        yield
        return
    except ConsisIDError as error:
        reason = str(error)
    except KeyError as error:
        reason = f"is incomplete: parameter {error.args[0]} is missing"
    # Sizes read off foreign shapes fit no net, in more ways than can be named.
    except Exception as error:
        logging.getLogger("consisid").debug("%s does not fit", path, exc_info=True)
        reason = f"does not fit: its parameters have unexpected shapes ({_in_short(error)})"
    raise ConsisIDError(f"{path} {reason}. {remedy}") from None


def _in_short(error):
    """The first sentence of a library's error, without the advice that follows."""
    text = str(error).strip().split("\n")[0].split(". ")[0]
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def read_state_dict(path):
    """All tensors of a weight file or of a folder of shards, and diffusers' config if there is one.

    Nothing is unpickled but tensors. Logs one line if the file holds random demo weights.
    Raises ConsisIDError if a file is missing, truncated, corrupt or holds no tensors.
    """
    files, config = checkpoint_files(path)
    state_dict, demo = {}, False
    for file in files:
        tensors, metadata = _read_file(file)
        metadata = metadata or {}
        demo |= DEMO_MARKER in metadata or tensors.pop(DEMO_MARKER, None) is not None
        config = config or parse_json(metadata.get("config", "{}"), f"The config in the metadata of {file}")
        state_dict.update(tensors)
    if demo:
        log_demo_weights(path)
    return state_dict, config


def _read_file(file):
    try:
        content, metadata = comfy.utils.load_torch_file(str(file), safe_load=True, return_metadata=True)
    except FileNotFoundError:
        raise ConsisIDError(f"{file} does not exist. Put the file there or choose another.") from None
    # Whatever a damaged file makes the readers raise means the same to the user.
    except Exception as error:
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise ConsisIDError(
                f"{file} holds Python objects ({code[1]}) besides tensors. They are not loaded, because they can run "
                "any code. Choose a file of tensors only, at best .safetensors."
            ) from None
        raise ConsisIDError(
            f"{file} cannot be read as a weight file ({_in_short(error)}). It is damaged, incomplete or of another "
            f"kind; its size is {Path(file).stat().st_size:,} bytes. Download it again."
        ) from None
    # Training scripts save counters and settings beside the tensors.
    tensors = {
        name: value
        for name, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise ConsisIDError(f"{file} holds no named tensors. Download it again or choose another.")
    return tensors, metadata


def log_demo_weights(path):
    logging.getLogger("consisid").warning(
        "%s holds random demo weights: results are noise. See the pack's README for the released weights.", path
    )
