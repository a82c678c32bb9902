"""Where ConsisID's files lie among ComfyUI's model folders, and their names as the loaders offer them.

Names come from ComfyUI's own lists, which it keeps until a folder changes, so that `define_schema` walks no disk.
"""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..checkpoint.files import list_checkpoints
from ..errors import ConsisIDError
from ..evaluation.models import PAPER_PACK
from ..face.identity_file import SUFFIX

_WEIGHT_FILES = (".pt", ".pth", ".bin", ".safetensors", ".sft", ".gguf")


def register() -> None:
    """Add models/consisid and models/insightface to ComfyUI's folders, beside any that are there already."""
    for name in ("consisid", "insightface"):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
    # ComfyUI leaves .gguf files out of its lists, and other packs leave .onnx files out of insightface's.
    for name, folder, suffixes in (
        ("consisid_gguf", "diffusion_models", {".gguf"}),
        ("consisid_face_packs", "insightface", set()),
    ):
        roots, _ = folder_paths.folder_names_and_paths[folder]
        folder_paths.folder_names_and_paths[name] = (roots, suffixes)


# Names for combos


def transformer_names() -> list[str]:
    """Transformers: what lies in models/diffusion_models, and in models/consisid below `transformer`."""
    return [*_checkpoints("diffusion_models", "consisid_gguf"), *_in_consisid("transformer")]


def checkpoint_names(folder: str, hint: str) -> list[str]:
    """Files and folders of shards: those of a model folder, and those in models/consisid whose name contains the hint.

    So a whole copy of the released repository may lie in models/consisid.
    """
    return [*_checkpoints(folder), *_in_consisid(hint)]


def face_net_names(hint: str) -> list[str]:
    """Weight files in models/consisid, those whose name contains the hint first."""
    return sorted(weight_file_names(""), key=lambda name: (hint not in name.lower(), name))


def weight_file_names(hint: str) -> list[str]:
    """Weight files in models/consisid whose name contains the hint."""
    return [name for name in _in_consisid(hint) if name.lower().endswith(_WEIGHT_FILES)]


def face_pack_names() -> list[str]:
    """Folders with files below `models` of every insightface folder."""
    files = [Path(name).parts for name in folder_paths.get_filename_list("consisid_face_packs")]
    return sorted({parts[1] for parts in files if parts[0] == "models" and len(parts) > 2})


def evaluation_pack_names() -> list[str]:
    """As `face_pack_names`, the pack that the paper measures by first."""
    return sorted(face_pack_names(), key=lambda name: (name != PAPER_PACK, name))


def clip_folder_names() -> list[str]:
    """Folders in models/consisid that hold a CLIP as transformers keeps it."""
    files = [Path(name) for name in folder_paths.get_filename_list("consisid")]
    return sorted(file.parent.as_posix() for file in files if file.name == "preprocessor_config.json")


def identity_names() -> list[str]:
    """Saved identities, as `find_identity` takes them: with / between folders, without suffix, no hidden files."""
    files = [Path(name) for name in folder_paths.get_filename_list("consisid")]
    names = [Path(*file.parts[1:]).as_posix() for file in files if file.parts[0] == "identities"]
    return sorted(
        name[: -len(SUFFIX)]
        for name in names
        if name.lower().endswith(SUFFIX) and not any(part.startswith(".") for part in name.split("/"))
    )


def _checkpoints(*folders):
    return list_checkpoints([name for folder in folders for name in folder_paths.get_filename_list(folder)])


def _in_consisid(hint):
    files = folder_paths.get_filename_list("consisid")
    names = list_checkpoints([name for name in files if name.lower().endswith(_WEIGHT_FILES)])
    # identities holds saved people, not nets.
    return [name for name in names if hint in name.lower() and not name.startswith("identities/")]


# Paths of what was chosen


def checkpoint_path(folder: str, name: str) -> str:
    """Full path of a file or folder of shards in a model folder or in models/consisid.

    Raises:
        ConsisIDError: If there is none inside them.
    """
    roots = [*folder_paths.get_folder_paths(folder), *folder_paths.get_folder_paths("consisid")]
    file = folder_paths.get_full_path(folder, name) or folder_paths.get_full_path("consisid", name)
    return file or _folder_path(list(dict.fromkeys(roots)), name)


def face_pack_path(name: str) -> str:
    """Full path of an insightface model pack.

    Raises:
        ConsisIDError: If there is none.
    """
    return _folder_path([os.path.join(root, "models") for root in folder_paths.get_folder_paths("insightface")], name)


def identity_folders() -> list[str]:
    """The folders of saved identities, the one for new ones first."""
    return [os.path.join(root, "identities") for root in folder_paths.get_folder_paths("consisid")]


def _folder_path(roots, name):
    for root in map(os.path.abspath, roots):
        path = os.path.abspath(os.path.join(root, name))
        if Path(root) in Path(path).parents and os.path.isdir(path):
            return path
    raise ConsisIDError(f"{name} is not in {' or '.join(roots)}. Put it there or choose another.")
