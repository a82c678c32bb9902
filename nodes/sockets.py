"""ConsisID's own socket types, and where its files lie."""

import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..consisid_core.checkpoint.files import list_checkpoints
from ..consisid_core.errors import ConsisIDError
from ..consisid_core.evaluation.models import PAPER_PACK

ConsisIDFaceModels = io.Custom("CONSISID_FACE_MODELS")
ConsisIDFace = io.Custom("CONSISID_FACE")
ConsisIDGlobalID = io.Custom("CONSISID_GLOBAL_ID")
ConsisIDLocalID = io.Custom("CONSISID_LOCAL_ID")
ConsisIDEvaluationModels = io.Custom("CONSISID_EVALUATION_MODELS")

_WEIGHT_FILES = (".pt", ".pth", ".bin", ".safetensors", ".sft", ".gguf")


def register_model_folders():
    """Add models/consisid and models/insightface to ComfyUI's folders, beside any that are there already."""
    for name in ("consisid", "insightface"):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
    # ComfyUI leaves .gguf files out of its lists.
    roots, _ = folder_paths.folder_names_and_paths["diffusion_models"]
    folder_paths.folder_names_and_paths["consisid_gguf"] = (roots, {".gguf"})


def transformer_names():
    """Transformers for a combo: what lies in models/diffusion_models, and in models/consisid below `transformer`."""
    return [*_checkpoint_names("diffusion_models", "consisid_gguf"), *_consisid_names("transformer")]


def checkpoint_names(folder, hint):
    """Files and folders of shards for a combo: those of a model folder, and those in models/consisid named by the hint.

    So a whole copy of the released repository may lie in models/consisid.
    """
    return [*_checkpoint_names(folder), *_consisid_names(hint)]


def face_net_names(hint):
    """Weight files in models/consisid, those whose name contains the hint first."""
    names = weight_file_names("")
    return sorted(names, key=lambda name: (hint not in name.lower(), name))


def weight_file_names(hint):
    """Weight files in models/consisid whose name contains the hint."""
    return [name for name in _consisid_names(hint) if name.lower().endswith(_WEIGHT_FILES)]


def _checkpoint_names(*folders):
    return list_checkpoints([name for folder in folders for name in folder_paths.get_filename_list(folder)])


def _consisid_names(hint):
    files = folder_paths.get_filename_list("consisid")
    names = list_checkpoints([name for name in files if name.lower().endswith(_WEIGHT_FILES)])
    # identities holds saved people, not nets.
    return [name for name in names if hint in name.lower() and not name.startswith("identities/")]


def face_pack_names():
    """Folders under `models` of every insightface folder."""
    roots = [os.path.join(root, "models") for root in folder_paths.get_folder_paths("insightface")]
    return sorted({entry.name for root in roots if os.path.isdir(root) for entry in os.scandir(root) if entry.is_dir()})


def evaluation_pack_names():
    """As `face_pack_names`, the pack that the paper measures by first."""
    return sorted(face_pack_names(), key=lambda name: (name != PAPER_PACK, name))


def clip_folder_names():
    """Folders in models/consisid that hold a CLIP as transformers keeps it."""
    files = [Path(name) for name in folder_paths.get_filename_list("consisid")]
    return sorted(file.parent.as_posix() for file in files if file.name == "preprocessor_config.json")


def checkpoint_path(folder, name):
    """Full path of a file or folder of shards in a model folder or in models/consisid.

    Raises ConsisIDError if there is none inside them.
    """
    roots = [*folder_paths.get_folder_paths(folder), *folder_paths.get_folder_paths("consisid")]
    file = folder_paths.get_full_path(folder, name) or folder_paths.get_full_path("consisid", name)
    return file or _folder_path(list(dict.fromkeys(roots)), name)


def face_pack_path(name):
    """Full path of an insightface model pack. Raises ConsisIDError if there is none."""
    return _folder_path([os.path.join(root, "models") for root in folder_paths.get_folder_paths("insightface")], name)


def _folder_path(roots, name):
    for root in map(os.path.abspath, roots):
        path = os.path.abspath(os.path.join(root, name))
        if Path(root) in Path(path).parents and os.path.isdir(path):
            return path
    raise ConsisIDError(f"{name} is not in {' or '.join(roots)}. Put it there or choose another.")
