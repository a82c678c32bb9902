"""What training reads: clips that went through the VAE, T5 and the face nets once, in files that are mapped, not read.

CACHE/index.json              geometry, fingerprints of the nets, and the clips
CACHE/empty_text.safetensors  the encoding of no text, for text dropout
CACHE/clips/KEY.safetensors   one clip each, so that a file is either whole or not there
CACHE/results_clips.*.jsonl   what `prepare` made of each clip of the manifest, one file a process
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConsisIDError, in_short
from ..evaluation.results import whole_file

if TYPE_CHECKING:
    import torch

FORMAT = 1
"""Of the files here; a cache of another format is prepared anew."""

CLIPS = "clips"
"""Folder of the clips' files in a cache."""

_INDEX = "index.json"
_EMPTY_TEXT = "empty_text.safetensors"
_TEXTS = ("name", "caption", "person", "mask_source")


@dataclass(frozen=True)
class Geometry:
    """Size of every clip of a cache. The defaults are those of the released weights and the paper's training."""

    width: int = 720
    height: int = 480
    frames: int = 49
    """4n+1."""
    stride: int = 3
    """Every so many frames of the video one is taken (section 4.1)."""
    text_length: int = 226
    """Tokens of a caption."""

    @property
    def latent_size(self) -> tuple[int, int, int]:
        """(T, h, w) of the latents: a first frame alone, then four in one; an eighth of height and width."""
        return (self.frames - 1) // 4 + 1, self.height // 8, self.width // 8


@dataclass(frozen=True, eq=False)
class CachedReference:
    """A photo of the person, as both identity halves need it. On disk the larger tensors are float16.

    The V variants differ in the noise that was added to the pixels before the VAE, with a standard deviation of
    exp(N(-3, 0.5)) of pixels in -1..1 (official models/dataloader.py:850); the first has none.
    """

    latent_mean: torch.Tensor
    """[V, 16, h, w] of the VAE's posterior of the face image, stretched to the clip's size; unscaled."""
    latent_std: torch.Tensor
    """[V, 16, h, w]"""
    keypoint_mean: torch.Tensor
    """[V, 16, h, w] of the picture of the drawn key points, which weights with `is_kps` take as a second frame."""
    keypoint_std: torch.Tensor
    """[V, 16, h, w]"""
    noise_sigma: torch.Tensor
    """[V] float32: the standard deviations, 0 for the first."""
    embedding: torch.Tensor
    """[512] float32 raw output of the recogniser."""
    eva_embedding: torch.Tensor
    """[768] float32 CLIP embedding of the EVA tower, of length 1."""
    hidden_states: torch.Tensor
    """[5, N, D] of the EVA tower, for the facial extractor."""


@dataclass(frozen=True, eq=False)
class CachedClip:
    """One training example. Latents are unscaled: training multiplies a sample by 0.7."""

    name: str
    """Path of the video as the manifest has it, with a number where it gave several clips."""
    caption: str
    person: str
    """The same for all clips that show the same person."""
    mask_source: str
    """Where the mask comes from: "given", "parsing" or "face box"."""
    latent_mean: torch.Tensor
    """[16, T, h, w] float16, of the VAE's posterior."""
    latent_std: torch.Tensor
    """[16, T, h, w] float16"""
    text: torch.Tensor
    """[L, D] float16: the caption through T5, padding attended."""
    mask: torch.Tensor
    """[T, h, w] float16, 0..1: how much of each latent pixel is the person's face (dynamic mask loss)."""
    inside: list[CachedReference]
    """From frames of the clip; at least one."""
    outside: list[CachedReference]
    """From frames of the video beside the clip, or other photos of the person (dynamic cross-face loss); may be
    empty."""


@dataclass(frozen=True)
class IndexedClip:
    """What the index says of a clip."""

    key: str
    """Name of its file without suffix."""
    name: str
    person: str
    mask_source: str
    inside: int
    """Number of references."""
    outside: int


@dataclass(frozen=True)
class Index:
    """What a cache holds, and how it was made."""

    geometry: Geometry
    nets: dict[str, str]
    """Net -> fingerprint of its files (`nets.fingerprints`): "vae", "text_encoder", "eva", "parser", "face_pack"."""
    is_demo: bool
    """Whether one of the nets is a stand-in."""
    clips: tuple[IndexedClip, ...]
    """In the order of the manifest."""
    missing: int
    """Clips of the manifest that are not prepared yet."""


def read_index(folder: Path | str) -> Index | None:
    """The index of a cache, or None where there is none.

    Raises:
        ConsisIDError: it is damaged or of another format.
    """
    file = Path(folder) / _INDEX
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if (found := content.pop("format")) != FORMAT:
            raise ConsisIDError(
                f"The cache {folder} has format {found}, and this version reads {FORMAT}. Prepare it anew in an empty "
                "folder."
            )
        clips = tuple(IndexedClip(**clip) for clip in content.pop("clips"))
        return Index(geometry=Geometry(**content.pop("geometry")), clips=clips, **content)
    except ConsisIDError:
        raise
    # OSError, and whatever a JSON of another structure raises.
    except Exception as error:
        raise ConsisIDError(
            f"{file} is no index of a cache ({in_short(error)}). Remove this file and run prepare again: the clips "
            "beside it are kept."
        ) from None


def write_index(folder: Path | str, index: Index) -> None:
    """Put this index in the place of the one before, whole or not at all."""
    text = json.dumps({"format": FORMAT, **asdict(index)}, indent=1)
    with whole_file(Path(folder) / _INDEX) as file:
        file.write_text(text, encoding="utf-8")


def check_nets(cache: Mapping[str, str], others: Mapping[str, str], folder: Path | str) -> None:
    """Compare the nets that made a cache with others that are to go with it.

    Args:
        cache: `Index.nets`.
        others: net -> fingerprint; nets that only one of both knows do not matter.
        folder: of the cache, for the error.

    Raises:
        ConsisIDError: naming the nets that differ.
    """
    if different := sorted(net for net in cache.keys() & others.keys() if cache[net] != others[net]):
        raise ConsisIDError(
            f"The cache {folder} was made with other weights: {', '.join(different)} differ from those named now. Name "
            "the weights that made it, or prepare another cache in an empty folder."
        )


class ClipCache(Sequence):
    """A prepared cache as a sequence of `CachedClip`, which is also a map-style dataset of torch.

    It holds no tensors and no open files, so that workers of a DataLoader and other processes may have it. A clip's
    tensors are views of its mapped file: only what is used of them is read. Choose a reference and a variant in the
    dataset, then, before a worker sends the clip on, which copies it.
    """

    def __init__(self, folder: Path | str) -> None:
        """
        Raises:
            ConsisIDError: there is no cache, it is damaged, or it holds no clip.
        """
        self.folder = Path(folder)
        index = read_index(self.folder)
        if index is None:
            raise ConsisIDError(
                f"{folder} holds no prepared cache (no {_INDEX}). Make one: python -m consisid_core.training prepare "
                f"MANIFEST {folder}"
            )
        if not index.clips:
            raise ConsisIDError(f"The cache {folder} holds no clip yet. Run prepare again, and see its report.")
        self.index = index
        self.geometry = index.geometry

    @property
    def empty_text(self) -> torch.Tensor:
        """[L, D] float16: T5's encoding of no text, for text dropout."""
        return _read(self.folder / _EMPTY_TEXT)[0]["text"]

    def __len__(self) -> int:
        return len(self.index.clips)

    def __getitem__(self, number: int) -> CachedClip:
        """
        Raises:
            ConsisIDError: its file is missing or damaged.
        """
        tensors, texts = _read(_clip_file(self.folder, self.index.clips[number].key))
        references = {
            side: [
                CachedReference(**{field.name: tensors.pop(f"{side}.{i}.{field.name}") for field in _REFERENCE_FIELDS})
                for i in range(getattr(self.index.clips[number], side))
            ]
            for side in ("inside", "outside")
        }
        return CachedClip(**{name: texts[name] for name in _TEXTS}, **tensors, **references)

    def people(self) -> dict[str, list[int]]:
        """Person -> numbers of their clips, whose `inside` references lie outside each other."""
        people = {}
        for number, clip in enumerate(self.index.clips):
            people.setdefault(clip.person, []).append(number)
        return people


_REFERENCE_FIELDS = fields(CachedReference)


def write_clip(folder: Path | str, key: str, clip: CachedClip) -> IndexedClip:
    """Write a clip's file, whole or not at all, in the place of one that is there.

    Args:
        folder: of the cache.
        key: name of the file without suffix.

    Raises:
        ConsisIDError: a value is no finite number.
        OSError: it cannot be written.
    """
    tensors = {name: value for name, value in vars(clip).items() if name not in (*_TEXTS, "inside", "outside")}
    for side in ("inside", "outside"):
        for i, reference in enumerate(getattr(clip, side)):
            tensors |= {f"{side}.{i}.{name}": value for name, value in vars(reference).items()}
    _write(_clip_file(folder, key), tensors, {name: getattr(clip, name) for name in _TEXTS})
    return IndexedClip(key, clip.name, clip.person, clip.mask_source, len(clip.inside), len(clip.outside))


def write_empty_text(folder: Path | str, text: torch.Tensor) -> None:
    """Write `ClipCache.empty_text`. text: [L, D]."""
    _write(Path(folder) / _EMPTY_TEXT, {"text": text}, {})


def has_clip(folder: Path | str, key: str) -> bool:
    """Whether a clip's file is there."""
    return _clip_file(folder, key).is_file()


def _clip_file(folder, key):
    return Path(folder) / CLIPS / f"{key}.safetensors"


def _read(file):
    """(tensors, texts) of a file of the cache."""
    from safetensors import safe_open

    try:
        with safe_open(file, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118
    # safetensors tells a missing file from a damaged one by its own exceptions and by Python's.
    except Exception as error:
        raise ConsisIDError(
            f"{file} of the cache cannot be read ({in_short(error)}). Remove it if it is there, and run prepare again: "
            "only what is missing is made."
        ) from None


def _write(file, tensors, texts):
    from safetensors.torch import save

    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ConsisIDError(
            f"{', '.join(broken[:3])} would hold values that are no finite numbers. Look at the weights with "
            "python -m consisid_core.weights check."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as unfinished:
        # Not save_file, whose error for a full disk is no OSError.
        unfinished.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, texts))
