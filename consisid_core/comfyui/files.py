"""Reading weight files through ComfyUI's loader, with errors that name the file and the cure."""

import json
import logging
from contextlib import contextmanager
from pathlib import Path

import comfy.utils

from ..checkpoint import DEMO_MARKER, checkpoint_files
from ..errors import ConsisIDError


@contextmanager
def about(path, remedy):
    """Put the file's name before and the remedy behind a ConsisIDError raised inside."""
    try:
        yield
    except ConsisIDError as error:
        raise ConsisIDError(f"{path} {error}. {remedy}") from None


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
        config = config or json.loads(metadata.get("config", "{}"))
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
        reason = str(error).strip().split("\n")[0][:200]
        raise ConsisIDError(
            f"{file} cannot be read as a weight file ({type(error).__name__}: {reason}). It is damaged, incomplete or "
            f"of another kind; its size is {Path(file).stat().st_size:,} bytes. Download it again."
        ) from None
    if not isinstance(content, dict) or not all(hasattr(tensor, "shape") for tensor in content.values()):
        content = _only_tensors(content)
    if not content:
        raise ConsisIDError(f"{file} holds no tensors. Download it again.")
    return content, metadata


def _only_tensors(content):
    """Weight files saved by training scripts carry counters and settings beside the tensors."""
    return {k: v for k, v in content.items() if hasattr(v, "shape")} if isinstance(content, dict) else {}


def log_demo_weights(path):
    logging.getLogger("consisid").warning(
        "%s holds random demo weights: results are noise. See the pack's README for the released weights.", path
    )
