"""The scores of `consisid_core.evaluation` inside ComfyUI: its memory management, progress bar and cancel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import numpy as np
import torch

from ..errors import ConsisIDError
from ..evaluation import plots
from ..evaluation.face_similarity import CROP_SIZE
from ..evaluation.models import EvaluationModels, load_nets
from ..evaluation.nets.clip_score import text_positions
from ..evaluation.scores import VideoScorer, VideoScores, report_lines
from ..evaluation.spectrum import SpectrumAccumulator, spectrum_picture
from ..evaluation.video import FrameBatch
from ..face.align import recogniser_crop
from ..types import Face
from .face_models import load_detector
from .identity_effect import sample_with_identity_effect
from .weight_files import log_demo_weights

log = logging.getLogger("consisid")

_NO_CLIP = "evaluation_models holds no CLIP. Choose one as clip in Load ConsisID Evaluation Models."


@dataclass(frozen=True, eq=False)
class ResidentModels:
    """EvaluationModels that ComfyUI loads and unloads as it does its own models."""

    models: EvaluationModels
    """Without the detector, whose sessions come and go."""
    detector: comfy.model_patcher.ModelPatcher
    """Its `model` is a ResidentDetector."""
    nets: tuple[comfy.model_patcher.ModelPatcher, ...]
    """The torch modules of `models`."""

    def load(self) -> EvaluationModels:
        """EvaluationModels, ready to use on the devices that ComfyUI has for them."""
        # All at once: with smart memory off, loading one of them unloads the others.
        comfy.model_management.load_models_gpu([self.detector, *self.nets])
        return replace(self.models, detector=self.detector.model.detector)


def load_evaluation_models(
    pack_folder: Path | str,
    provider: str,
    curricular_face: Path | str | None = None,
    inception: Path | str | None = None,
    clip: Path | str | None = None,
) -> ResidentModels:
    """ResidentModels from a pack folder and up to three paths.

    Args:
        pack_folder: of an insightface pack.
        provider: as the node offers it, e.g. "auto".
        curricular_face, inception, clip: as of `evaluation.models.load_models`.

    Raises:
        ConsisIDError: naming the file or folder that is missing, damaged or of another kind.
    """
    detector = load_detector(pack_folder, provider)
    (curricular_face, inception, clip), stand_ins = load_nets(curricular_face, inception, clip)
    if detector.model.detector.is_demo:
        stand_ins = (Path(pack_folder).name, *stand_ins)
    for name in stand_ins:
        log_demo_weights(name)
    modules = [curricular_face, inception and inception.net, clip and clip.net]
    patchers = tuple(
        comfy.model_patcher.ModelPatcher(
            torch.nn.ModuleList([module]),  # transformers' modules do not let ComfyUI note their device on them.
            load_device=comfy.model_management.text_encoder_device(),
            offload_device=comfy.model_management.text_encoder_offload_device(),
        )
        for module in modules
        if module is not None
    )
    models = EvaluationModels(None, Path(pack_folder).name, curricular_face, inception, clip, stand_ins)
    return ResidentModels(models, detector, patchers)


def score_identity(
    resident: ResidentModels, video: torch.Tensor, reference: Face | torch.Tensor, protocol: str, theme: str
) -> tuple[float, str, torch.Tensor]:
    """FaceSim of a video.

    Args:
        resident: the nets.
        video: frames [N, H, W, C], 0..1.
        reference: Face, or photos [B, H, W, C], 0..1.
        protocol: see `evaluation.protocol`.
        theme: a key of `plots.THEMES`.

    Returns:
        (FaceSim-Arc, report, plot [1, H, W, 3]).

    Raises:
        ConsisIDError: as `VideoScorer` does.
    """
    models = resident.load()
    scorer, frames = VideoScorer(models, protocol), FrameBatch(video)
    scores = scorer.score(frames, _person(scorer, reference), on_frame=_Progress(scorer.frames_to_read(frames)))
    plot = plots.similarity_plot(scores, models, plots.THEMES[theme])
    return scores.face.score(scores.face.arc).mean, _report(scores, models), _to_image(plot)


def score_text(resident: ResidentModels, video: torch.Tensor, prompt: str, protocol: str) -> tuple[float, str]:
    """CLIPScore of a video.

    Args:
        resident: the nets.
        video: frames [N, H, W, C], 0..1.
        prompt: what it should show.
        protocol: see `evaluation.protocol`.

    Returns:
        (score, report).

    Raises:
        ConsisIDError: there is no CLIP or no prompt.
    """
    models = resident.load()
    if models.clip is None:
        raise ConsisIDError(_NO_CLIP)
    frames = FrameBatch(video)
    text = models.clip.score(frames, prompt, protocol, _Progress(len(text_positions(protocol, frames.frame_count))))
    return text.score.mean, _report(VideoScores(None, text), models)


def compare_videos(
    resident: ResidentModels,
    videos: dict[str, torch.Tensor],
    names: Sequence[str],
    reference: Face | torch.Tensor,
    prompt: str,
    protocol: str,
    theme: str,
) -> tuple[torch.Tensor, str]:
    """The scores of several videos of one person side by side.

    Args:
        resident: the nets.
        videos: name of the input -> frames [N, H, W, C], 0..1.
        names: what to call them in this order, as far as it goes.
        reference: Face, or photos [B, H, W, C], 0..1.
        prompt: "" to leave CLIPScore out.
        protocol: see `evaluation.protocol`.
        theme: a key of `plots.THEMES`.

    Returns:
        (table [1, H, W, 3], report).

    Raises:
        ConsisIDError: as `VideoScorer` does.
    """
    models = resident.load()
    if prompt and models.clip is None:
        raise ConsisIDError(_NO_CLIP + " Or empty the prompt.")
    scorer = VideoScorer(models, protocol)
    person = _person(scorer, reference)
    batches = [FrameBatch(video, name) for name, video in videos.items()]
    given = [name.strip() for name in names] + [""] * len(batches)
    names = [name or batch.name for name, batch in zip(given, batches, strict=False)]
    progress = _Progress(sum(scorer.frames_to_read(frames, prompt) for frames in batches))
    rows = [(name, scorer.score(frames, person, prompt, progress)) for name, frames in zip(names, batches, strict=True)]
    reports = [f"{name}\n\n{_listed(report_lines(scores, models))}" for name, scores in rows]
    table = plots.comparison_table(rows, models, plots.THEMES[theme])
    return _to_image(table), "\n\n".join(reports)


def frequency_spectrum(
    images: torch.Tensor, reference: torch.Tensor | None, resident: ResidentModels | None, theme: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spectra of pictures, Figure 3 of the paper.

    Args:
        images: [N, H, W, C], 0..1, a video or pictures.
        reference: the same of what to compare with, or None.
        resident: the nets to look at faces only, or None for whole pictures.
        theme: a key of `plots.THEMES`.

    Returns:
        (plot [1, H, W, 3], spectrum picture [1, h, w, 3]).

    Raises:
        ConsisIDError: no face is found, or whole pictures of two sizes are to be compared.
    """
    detector = resident.load().detector if resident else None
    count = len(images) + (0 if reference is None else len(reference))
    progress = _Progress(count)
    spectrum = _spectrum(images, detector, "images", progress)
    compared = None if reference is None else _spectrum(reference, detector, "reference", progress)
    region = "faces" if detector else "whole pictures"
    plot = plots.spectrum_plot(spectrum, compared, region, plots.THEMES[theme])
    return _to_image(plot), _to_image(spectrum_picture(spectrum))


def sample_with_effect_plot(
    model: comfy.model_patcher.ModelPatcher,
    positive: list,
    negative: list,
    latent: dict,
    seed: int,
    steps: int,
    cfg: float,
    sampler: str,
    guidance: str,
    denoise: float,
    theme: str,
) -> tuple[dict, torch.Tensor]:
    """`sample_with_identity_effect`, drawn.

    Args:
        model, positive, negative, latent, seed, steps, cfg, sampler, guidance, denoise: as of that.
        theme: a key of `plots.THEMES`.

    Returns:
        (LATENT, plot [1, H, W, 3]).
    """
    latent, effect = sample_with_identity_effect(
        model, positive, negative, latent, seed, steps, cfg, sampler, guidance, denoise
    )
    return latent, _to_image(plots.effect_plot(effect, plots.THEMES[theme]))


def _spectrum(images, detector, name, progress):
    accumulator = SpectrumAccumulator()
    for _, photo in FrameBatch(images, name).frames():
        if detector is None:
            accumulator.add(photo)
        elif faces := detector.look(photo):
            accumulator.add(recogniser_crop(photo, max(faces, key=lambda face: face.area), CROP_SIZE))
        progress()
    if accumulator.count == 0:
        raise ConsisIDError(
            f"No face found in any of the {len(images)} pictures of {name}. Disconnect evaluation_models to take the "
            "spectrum of whole pictures."
        )
    if accumulator.count < len(images):
        log.info("%d of %d pictures of %s show no face.", len(images) - accumulator.count, len(images), name)
    return accumulator.result()


def _person(scorer, reference):
    photos = reference.image if isinstance(reference, Face) else reference
    return scorer.reference([photo for _, photo in FrameBatch(photos, "reference").frames()])


def _report(scores, models):
    lines = report_lines(scores, models)
    for line in lines:
        log.info(line)  # Shows it on the node too.
    return _listed(lines)


def _listed(lines):
    """For Preview as Text, which shows Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def _to_image(picture):
    """A Figure, or uint8 [H, W, 3] -> IMAGE [1, H, W, 3]."""
    pixels = picture if isinstance(picture, np.ndarray) else plots.picture(picture)
    return torch.from_numpy(pixels).float().div(255).unsqueeze(0)


class _Progress:
    """Called after each frame: moves the node's progress bar, and stops the run if the user has cancelled it."""

    def __init__(self, total):
        self.bar = comfy.utils.ProgressBar(total)

    def __call__(self):
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update(1)
