"""ConsisID's own socket types, and where its files lie."""

import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..consisid_core.checkpoint import list_checkpoints
from ..consisid_core.errors import ConsisIDError

ConsisIDFaceModels = io.Custom("CONSISID_FACE_MODELS")
ConsisIDFace = io.Custom("CONSISID_FACE")
ConsisIDGlobalID = io.Custom("CONSISID_GLOBAL_ID")
ConsisIDLocalID = io.Custom("CONSISID_LOCAL_ID")

_WEIGHT_FILES = (".pt", ".pth", ".bin", ".safetensors", ".sft")


def register_model_folders():
    """Add models/consisid and models/insightface to ComfyUI's folders, beside any that are there already."""
    for name in ("consisid", "insightface"):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))


def checkpoint_names(folder):
    """Files and folders of shards under a model folder, for a combo."""
    return list_checkpoints(folder_paths.get_filename_list(folder))


def weight_names(folder, hint):
    """Weight files under a model folder, those whose name contains the hint first."""
    names = [name for name in checkpoint_names(folder) if name.lower().endswith(_WEIGHT_FILES)]
    names = [name for name in names if not name.startswith("identities/")]  # Saved people, not nets.
    return sorted(names, key=lambda name: (hint not in name.lower(), name))


def face_pack_names():
    """Folders under `models` of every insightface folder."""
    roots = [os.path.join(root, "models") for root in folder_paths.get_folder_paths("insightface")]
    return sorted({entry.name for root in roots if os.path.isdir(root) for entry in os.scandir(root) if entry.is_dir()})


def checkpoint_path(folder, name):
    """Full path of a file or folder of shards. Raises ConsisIDError if there is none inside the model folder."""
    return folder_paths.get_full_path(folder, name) or _folder_path(folder_paths.get_folder_paths(folder), name)


def face_pack_path(name):
    """Full path of an insightface model pack. Raises ConsisIDError if there is none."""
    return _folder_path([os.path.join(root, "models") for root in folder_paths.get_folder_paths("insightface")], name)


def _folder_path(roots, name):
    for root in map(os.path.abspath, roots):
        path = os.path.abspath(os.path.join(root, name))
        if Path(root) in Path(path).parents and os.path.isdir(path):
            return path
    raise ConsisIDError(f"{name} is not in {' or '.join(roots)}. Put it there or choose another.")
