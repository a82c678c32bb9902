"""Where a ComfyUI keeps its models, read from its files alone: for commands that run without ComfyUI."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConsisIDError, optional_library

DEFAULT_WEIGHTS = Path(__file__).resolve().parents[1] / "default_weights"
"""For the small trained set, laid out as a models folder."""

_KINDS = ("diffusion_models", "vae", "text_encoders", "consisid", "insightface")
# Folders that ComfyUI knows by two names; new files go to the first.
_OWN_FOLDERS = {"diffusion_models": ("diffusion_models", "unet"), "text_encoders": ("text_encoders", "clip")}
_MAPPED_NAMES = {"unet": "diffusion_models", "clip": "text_encoders"}


class ModelFolders:
    """The folders in which a ComfyUI looks for models, its extra_model_paths.yaml included."""

    def __init__(self, comfyui: Path | str | None = None):
        """
        Args:
            comfyui: its root or its models folder; by default the ComfyUI around this pack, else COMFYUI_PATH.

        Raises:
            ConsisIDError: there is none, or its extra_model_paths.yaml cannot be read.
        """
        root = Path(comfyui).expanduser().absolute() if comfyui else _find_comfyui()
        if not root.is_dir():
            raise ConsisIDError(f"{root} is not a folder. Name ComfyUI's folder, or its models folder.")
        is_comfyui = (root / "main.py").is_file() or (root / "models").is_dir()
        if not is_comfyui and not any((root / name).is_dir() for name in _KINDS) and root.name != "models":
            raise ConsisIDError(
                f"{root} is neither a ComfyUI folder (no main.py) nor a models folder (no diffusion_models). Name one."
            )
        self.models = root / "models" if is_comfyui else root
        self._extra = _read_extra_paths(root / "extra_model_paths.yaml") if is_comfyui else []

    def roots(self, folder: str) -> list[Path]:
        """Folders for one kind of model, the one for new files first."""
        own = [self.models / name for name in _OWN_FOLDERS.get(folder, (folder,))]
        defaults = [path for name, path, is_default in self._extra if name == folder and is_default]
        others = [path for name, path, is_default in self._extra if name == folder and not is_default]
        # ComfyUI puts each default before those that it has read earlier.
        return list(dict.fromkeys([*reversed(defaults), *own, *others]))

    def shown(self, path: Path) -> str:
        """A path as short as it stays clear: from ComfyUI's folder on, if it lies there."""
        base = self.models.parent
        return str(path.relative_to(base) if path.is_relative_to(base) else path)


def _find_comfyui():
    custom_nodes = Path(__file__).absolute().parents[3]
    if custom_nodes.name == "custom_nodes" and (custom_nodes.parent / "main.py").is_file():
        return custom_nodes.parent
    if path := os.environ.get("COMFYUI_PATH"):
        return Path(path).absolute()
    raise ConsisIDError(
        "Which ComfyUI? This pack does not lie in one's custom_nodes. Name ComfyUI's folder after the command, or set "
        "COMFYUI_PATH."
    )


def _read_extra_paths(file):
    """(folder name, path, whether new files belong there) of each line, read as ComfyUI reads it."""
    if not file.is_file():
        return []
    with optional_library(f"Reading {file}"):
        import yaml
    try:
        sections = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).values()
        found = []
        for section in sections:
            section = dict(section or {})
            base = os.path.expandvars(os.path.expanduser(section.pop("base_path", "")))
            is_default = bool(section.pop("is_default", False))
            for name, paths in section.items():
                for path in filter(None, paths.split("\n")):
                    full = Path(os.path.normpath(os.path.join(file.parent, base, path)))
                    found.append((_MAPPED_NAMES.get(name, name), full, is_default))
        return found
    # OSError, and whatever a text of another structure raises.
    except Exception as error:
        raise ConsisIDError(
            f"{file} cannot be read ({type(error).__name__}: {str(error)[:200]}). Correct it, or name the models "
            "folder itself instead of ComfyUI's."
        ) from None
