"""Which weight files there are, where the release keeps them, and where they belong in a ComfyUI."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.model_folders import ModelFolders

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

    def place(self, folders: ModelFolders) -> Path:
        """Where the part lies in a folder that holds it already, in whole or in part, else where it belongs."""
        places = [root / self.target for root in folders.roots(self.folder)]
        return next((path for path in places if path.exists() or unfinished(path).exists()), places[0])


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


def unfinished(path: Path) -> Path:
    """Under this name a file is kept until it is complete and verified."""
    return path.with_name(path.name + ".part")


def human(size: float) -> str:
    """Bytes as people read them, in the units of the model hub: 12.4 GB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception says that there is no room: the disk, a quota, or the largest file allowed."""
    codes = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quotas of that kind.
    return getattr(error, "errno", None) in codes
