"""The nets that measure, loaded from files. ComfyUI's memory manager is not needed here; it may move their modules."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint.fit import about
from ..checkpoint.reading import read_checkpoint
from ..face.detector import FaceDetector
from .nets.clip_score import ClipScorer
from .nets.curricularface import CurricularFace
from .nets.inception import Inception

PAPER_PACK = "buffalo_l"
"""insightface's default pack, by whose recogniser the paper's FaceSim-Arc is measured."""


@dataclass(frozen=True, eq=False)
class EvaluationModels:
    """Only the detector is needed; each of the others adds a score."""

    detector: FaceDetector
    pack: str
    """Name of the insightface pack, for reports."""
    curricular_face: CurricularFace | None = None
    inception: Inception | None = None
    clip: ClipScorer | None = None
    stand_ins: tuple[str, ...] = ()
    """Names of those that are demo weights; every report says so."""


def load_models(
    pack_folder: Path | str,
    providers: list[str],
    curricular_face: Path | str | None = None,
    inception: Path | str | None = None,
    clip: Path | str | None = None,
) -> EvaluationModels:
    """EvaluationModels from an insightface pack folder and up to three paths.

    Args:
        pack_folder: e.g. `models/insightface/models/buffalo_l`.
        providers: onnxruntime provider ids, best first (`resolve_providers`).
        curricular_face: `glint360k_curricular_face_r101_backbone.bin` of ConsisID-preview.
        inception: `inception_v3_google-0cc3c7bd.pth` of torchvision for the paper's protocol, or
            `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity for the strict one.
        clip: folder with the files of openai/clip-vit-base-patch32.

    Raises:
        ConsisIDError: naming the file or folder that is missing, damaged or of another kind.
    """
    detector = FaceDetector(pack_folder, providers)
    nets, demos = load_nets(curricular_face, inception, clip)
    pack = Path(pack_folder).name
    return EvaluationModels(detector, pack, *nets, stand_ins=((pack,) if detector.is_demo else ()) + demos)


def load_nets(
    curricular_face: Path | str | None, inception: Path | str | None, clip: Path | str | None
) -> tuple[list[torch.nn.Module | Inception | ClipScorer | None], tuple[str, ...]]:
    """The three optional nets of `load_models`, each None without a path, and the names of those that are demos.

    Raises:
        ConsisIDError: naming the file or folder that is missing, damaged or of another kind.
    """
    nets, demos = [], []
    for path, load in ((curricular_face, _load_curricular_face), (inception, _load_inception), (clip, _load_clip)):
        net, is_demo = load(Path(path)) if path else (None, False)
        nets.append(net)
        if is_demo:
            demos.append(Path(path).name)
    return nets, tuple(demos)


def model_files(
    pack_folder: Path, curricular_face: Path | None = None, inception: Path | None = None, clip: Path | None = None
) -> dict[str, list[Path]]:
    """The files that decide what the nets of `load_models`, from the same paths, answer.

    Returns:
        net -> files: of the pack all that insightface chooses among, of CLIP configs, tokenizer and the weights that
        transformers takes.
    """
    files = {"pack": sorted(pack_folder.glob("*.onnx"))}
    files["curricular_face"] = [curricular_face] if curricular_face else []
    files["inception"] = [inception] if inception else []
    files["clip"] = []
    if clip:
        weights = sorted(clip.glob("*.safetensors")) or sorted(clip.glob("*.bin"))
        files["clip"] = [*sorted(clip.glob("*.json")), *sorted(clip.glob("*.txt")), *weights]
    return files


def _load_curricular_face(path):
    checkpoint = read_checkpoint(path)
    with about(path, "Choose glint360k_curricular_face_r101_backbone.bin of ConsisID-preview"):
        return CurricularFace.from_state_dict(checkpoint.tensors), checkpoint.is_demo


def _load_inception(path):
    checkpoint = read_checkpoint(path)
    with about(path, "Choose torchvision's inception_v3_google or torch-fidelity's weights-inception-2015-12-05"):
        return Inception.from_state_dict(checkpoint.tensors), checkpoint.is_demo


def _load_clip(path):
    clip = ClipScorer(path)
    return clip, clip.is_demo
