"""Which weight files there are, where the release keeps them, and where ComfyUI looks for them."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConsisIDError

REPOSITORY = "BestWishYsh/ConsisID-preview"


@dataclass(frozen=True)
class Part:
    """One row of the README's table of weight files."""

    name: str
    """As `--part` takes it."""
    folder: str
    """ComfyUI's name for the kind of model folder."""
    target: str
    """Where the workflows expect it below that folder: a file, or a folder."""
    remote: tuple[str, ...]
    """The same in the repository; of several the first that exists there is taken."""
    size: int
    """Bytes, rounded: before the repository has been asked."""
    licence: str
    files: tuple[str, ...] = ()
    """Of a folder: the files known beforehand. Shards are named by the index."""

    weights: str = ""
    """Of a folder: the file in it that a loader takes, or "" where the loader takes the folder of shards itself."""


PARTS = (
    Part(
        "transformer",
        "diffusion_models",
        "ConsisID-preview/transformer",
        # The weights averaged over training; the reference prefers them too.
        ("transformer_ema", "transformer"),
        12_400_000_000,
        "CogVideoX licence",
        ("diffusion_pytorch_model.safetensors.index.json", "config.json"),
    ),
    Part(
        "vae",
        "vae",
        "ConsisID-preview/vae",
        ("vae",),
        431_000_000,
        "from CogVideoX, see its model page",
        ("diffusion_pytorch_model.safetensors", "config.json"),
        "diffusion_pytorch_model.safetensors",
    ),
    Part(
        "text_encoder",
        "text_encoders",
        "ConsisID-preview/text_encoder",
        ("text_encoder",),
        9_500_000_000,
        "Apache-2.0",
        ("model.safetensors.index.json", "config.json"),
    ),
    Part(
        "face_parsing",
        "consisid",
        "ConsisID-preview/face_encoder/parsing_bisenet.pth",
        ("face_encoder/parsing_bisenet.pth",),
        53_000_000,
        "MIT",
    ),
    Part(
        "eva_clip",
        "consisid",
        "ConsisID-preview/face_encoder/EVA02_CLIP_L_336_psz14_s6B.pt",
        ("face_encoder/EVA02_CLIP_L_336_psz14_s6B.pt",),
        856_000_000,
        "MIT",
    ),
    Part(
        "face_detector",
        "insightface",
        "models/antelopev2/scrfd_10g_bnkps.onnx",
        ("face_encoder/models/antelopev2/scrfd_10g_bnkps.onnx",),
        16_900_000,
        "non-commercial research",
    ),
    Part(
        "face_recogniser",
        "insightface",
        "models/antelopev2/glintr100.onnx",
        ("face_encoder/models/antelopev2/glintr100.onnx",),
        261_000_000,
        "non-commercial research",
    ),
)

EVALUATION_PARTS = (
    Part(
        "evaluation_detector",
        "insightface",
        "models/buffalo_l/det_10g.onnx",
        ("face_encoder/models/buffalo_l/det_10g.onnx",),
        16_900_000,
        "non-commercial research",
    ),
    Part(
        "evaluation_recogniser",
        "insightface",
        "models/buffalo_l/w600k_r50.onnx",
        ("face_encoder/models/buffalo_l/w600k_r50.onnx",),
        174_000_000,
        "non-commercial research",
    ),
    Part(
        "curricular_face",
        "consisid",
        "ConsisID-preview/face_encoder/glint360k_curricular_face_r101_backbone.bin",
        ("face_encoder/glint360k_curricular_face_r101_backbone.bin",),
        261_000_000,
        "see its model page",
    ),
)
"""What measures videos and does not make them: fetched and checked only where it is named."""

# Folders that ComfyUI knows by two names; new files go to the first.
_OWN_FOLDERS = {"diffusion_models": ("diffusion_models", "unet"), "text_encoders": ("text_encoders", "clip")}
_MAPPED_NAMES = {"unet": "diffusion_models", "clip": "text_encoders"}


class ModelFolders:
    """The folders in which a ComfyUI looks for models, its extra_model_paths.yaml included."""

    def __init__(self, comfyui=None):
        """comfyui: its root or its models folder; by default the ComfyUI around this pack, else COMFYUI_PATH.

        Raises ConsisIDError if there is none, or if its extra_model_paths.yaml cannot be read.
        """
        root = Path(comfyui).expanduser().absolute() if comfyui else _find_comfyui()
        if not root.is_dir():
            raise ConsisIDError(f"{root} is not a folder. Name ComfyUI's folder, or its models folder.")
        is_comfyui = (root / "main.py").is_file() or (root / "models").is_dir()
        if not is_comfyui and not any((root / part.folder).is_dir() for part in PARTS) and root.name != "models":
            raise ConsisIDError(
                f"{root} is neither a ComfyUI folder (no main.py) nor a models folder (no diffusion_models). Name one."
            )
        self.models = root / "models" if is_comfyui else root
        self._extra = _read_extra_paths(root / "extra_model_paths.yaml") if is_comfyui else []

    def roots(self, folder):
        """Folders for one kind of model, the one for new files first."""
        own = [self.models / name for name in _OWN_FOLDERS.get(folder, (folder,))]
        defaults = [path for name, path, is_default in self._extra if name == folder and is_default]
        others = [path for name, path, is_default in self._extra if name == folder and not is_default]
        # ComfyUI puts each default before those that it has read earlier.
        return list(dict.fromkeys([*reversed(defaults), *own, *others]))

    def target(self, part):
        """Where the part lies in a folder that holds it already, in whole or in part, else where it belongs."""
        places = [root / part.target for root in self.roots(part.folder)]
        return next((path for path in places if path.exists() or unfinished(path).exists()), places[0])

    def shown(self, path):
        """A path as short as it stays clear: from ComfyUI's folder on, if it lies there."""
        base = self.models.parent
        return str(path.relative_to(base) if path.is_relative_to(base) else path)


def unfinished(path):
    """Under this name a file is kept until it is complete and verified."""
    return path.with_name(path.name + ".part")


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
    try:
        import yaml

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
    # ImportError, OSError, and whatever a text of another structure raises.
    except Exception as error:
        raise ConsisIDError(
            f"{file} cannot be read ({type(error).__name__}: {str(error)[:200]}). Correct it, or name the models "
            "folder itself instead of ComfyUI's."
        ) from None


def human(size):
    """Bytes as people read them, in the units of the model hub: 12.4 GB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def is_disk_full(error):
    """Whether an exception says that there is no room: the disk, a quota, or the largest file allowed."""
    codes = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quotas of that kind.
    return getattr(error, "errno", None) in codes
