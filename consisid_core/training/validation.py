"""Videos of fixed people and prompts while a run trains, and how like the photos they are.

RUN_DIR/validation/000250/NAME.mp4     one video for each case of the cache (`cases`)
RUN_DIR/validation/000250/strip.jpg    photo and frames of all of them
RUN_DIR/validation/000250/scores.json  FaceSim and frames without a face

Cases, seed and steps stay the same through a run, so that its videos can be compared.
`python -m consisid_core.training validation RUN_DIR OUT` makes them from a checkpoint at any time.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..command_line import run_command
from ..errors import ConsisIDError
from ..evaluation.face_similarity import FaceScorer, Reference
from ..evaluation.results import whole_file
from ..evaluation.video import FrameBatch
from ..face.detector import FaceDetector
from ..face.providers import resolve_providers
from ..model.config import TransformerConfig
from ..model.transformer import ConsisIDTransformer
from .cache import ClipCache
from .cases import CaseSet, Person
from .diffusion import LATENT_SCALE
from .net_options import add_device_option, chosen_device
from .pictures import strip, write_video
from .sample import Predict, Sampling, add_sampling_options, chosen_sampling, decode, sample_latents
from .trained import trained_weights

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "validation"
_SCORES = "scores.json"

PredictPerson = Callable[[Person], Predict]
"""A net that has been told whom to show."""


@dataclass(frozen=True)
class CaseScore:
    """How much a video is like its photo."""

    name: str
    prompt: str
    face_sim: float
    """Mean cosine over all frames, one without a face counting 0 (the strict protocol)."""
    frames: int
    frames_without_face: int


class Validator:
    """Makes and scores the videos of a cache's cases."""

    def __init__(self, cases: CaseSet, settings: Sampling, providers: list[str]) -> None:
        """
        Args:
            cases: people and prompts.
            settings: of every video.
            providers: of onnxruntime, for the face pack.

        Raises:
            ConsisIDError: VAE or face pack are no longer where they were.
        """
        self.cases, self.settings = cases, settings
        if not cases.vae.exists():
            raise ConsisIDError(f"The VAE {cases.vae} is gone, which decodes validation videos. Run `cases` again.")
        self.detector = FaceDetector(cases.score_pack, providers)
        self.scorer = FaceScorer(self.detector, "strict")

    @torch.no_grad()
    def latents(
        self,
        predict: PredictPerson,
        net: TransformerConfig,
        device: torch.device,
        on_step: Callable[[], None] = lambda: None,
    ) -> list[torch.Tensor]:
        """[16, T, h, w] on the CPU, scaled, of each case. All processes of a sliced net (FSDP) must call it alike.

        Args:
            predict: the net.
            net: its config, which says what the image latents hold.
            device: that computes.
            on_step: called after each denoising step; it may raise.
        """
        return [
            sample_latents(
                predict(case),
                case.text,
                self.cases.empty_text,
                image_latents(case, net).to(device),
                self.settings,
                on_step,
            ).cpu()
            for case in self.cases
        ]

    def write(
        self,
        folder: Path,
        latents: Sequence[torch.Tensor],
        device: torch.device,
        facts: dict,
        writer: SummaryWriter | None = None,
    ) -> list[CaseScore]:
        """Decode and score the videos, and write them with their scores.

        Args:
            folder: to write into.
            latents: of `latents`.
            device: that decodes.
            facts: "step", "stage" and whatever else scores.json is to say.
            writer: of TensorBoard.

        Raises:
            OSError: they cannot be written.
        """
        vae = self.cases.load_vae(device)
        videos = [decode(vae, part.to(device)).numpy() for part in latents]
        folder.mkdir(parents=True, exist_ok=True)
        scores = []
        for case, frames in zip(self.cases, videos, strict=True):
            write_video(frames, folder / f"{case.name}.mp4")
            scores.append(self._score(case, frames))
        captions = [f"{score.name}: FaceSim {score.face_sim:.3f}. {score.prompt}" for score in scores]
        picture = strip(
            [(case.photo.numpy(), frames, caption)
             for case, frames, caption in zip(self.cases, videos, captions, strict=True)]
        )  # fmt: skip
        _write_picture(picture, folder / "strip.jpg")
        summary = {
            **facts,
            "face_sim": float(np.mean([score.face_sim for score in scores])),
            "without_face": sum(s.frames_without_face for s in scores) / sum(s.frames for s in scores),
            "recogniser": self.cases.score_pack.name,
            "is_stand_in": self.detector.is_demo,
            "sampling": asdict(self.settings),
            "cases": [asdict(score) for score in scores],
        }
        with whole_file(folder / _SCORES) as file:
            file.write_text(json.dumps(summary, indent=1), encoding="utf-8")
        if writer:
            writer.add_scalar("validation/FaceSim", summary["face_sim"], facts["step"])
            writer.add_scalar("validation/frames without a face", summary["without_face"], facts["step"])
            writer.add_image("validation/videos", picture, facts["step"], dataformats="HWC")
            writer.flush()
        return scores

    def _score(self, case, frames):
        batch = FrameBatch(torch.from_numpy(frames).float() / 255, case.name)
        found = self.scorer.score(batch, Reference(case.arc.numpy(), None, None))
        return CaseScore(
            case.name, case.prompt, found.score(found.arc).mean, len(found.arc), found.frames_without_face
        )  # fmt: skip


def predictor(net: ConsisIDTransformer, transformer_options: dict = {}) -> PredictPerson:
    """What a net says, its identity tokens made once for each person.

    Args:
        transformer_options: of `ConsisIDTransformer.forward`.
    """
    weight = net.proj_out.weight

    @torch.no_grad()
    def of(person):
        embedding = person.id_embedding[None].to(weight)
        tokens = net.local_facial_extractor(embedding, [state[None].to(weight) for state in person.hidden_states])
        return lambda latents, timestep, text: net(
            latents.to(weight), timestep, text.to(weight), tokens, transformer_options=transformer_options
        )

    return of


def image_latents(person: Person, net: TransformerConfig) -> torch.Tensor:
    """[16, T, h, w] scaled: the face in frame 0, and key points in frame 1 if the net knows them, as in inference."""
    frames = person.latent_frames
    latents = torch.zeros(person.face_latents.shape[0], frames, *person.face_latents.shape[1:])
    latents[:, 0] = person.face_latents.float()
    if net.keypoints and frames > 1:
        latents[:, 1] = person.keypoint_latents.float()
    return latents * LATENT_SCALE


def validation_folder(run_dir: Path | str, step: int) -> Path:
    """Where the videos of a step lie."""
    return Path(run_dir) / FOLDER / f"{step:06d}"


def read_scores(run_dir: Path | str) -> list[dict]:
    """The scores.json of all validations of a run, the earliest first.

    Raises:
        ConsisIDError: one is damaged.
    """
    scores = []
    for file in sorted((Path(run_dir) / FOLDER).glob(f"*/{_SCORES}")):
        try:
            scores.append(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ConsisIDError(f"{file} is damaged ({error}). Remove it.") from None
    return scores


def _write_picture(picture, path):
    from PIL import Image

    Image.fromarray(picture).save(path, quality=90)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.training validation",
        description="Makes and scores the videos of the cache's cases from a checkpoint of a run.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of the run")
    parser.add_argument("target", metavar="OUT", type=Path, help="folder to write, which does not exist yet")
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the newest)")
    parser.add_argument("--last", action="store_true", help="the last weights instead of the averaged ones")
    add_sampling_options(parser)
    add_device_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments. Returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    return run_command(lambda: _run(options), options.target)


def _run(options):
    from tqdm import tqdm

    from ..checkpoint.fit import load_exactly

    if os.path.lexists(options.target):
        raise ConsisIDError(f"{options.target} exists already. Name a folder that does not.")
    sampling = chosen_sampling(options)
    device = torch.device(chosen_device(options))
    weights = trained_weights(options.run_dir, options.step, not options.last)
    cases = CaseSet(ClipCache(weights.config.data.cache))
    net = ConsisIDTransformer(weights.net, device="meta")
    load_exactly(net, weights.merged(torch.bfloat16 if device.type == "cuda" else torch.float32))
    net.to(device).requires_grad_(False).eval()
    validator = Validator(cases, sampling, resolve_providers("auto"))
    with tqdm(total=len(cases) * options.steps, unit="step", dynamic_ncols=True) as bar:
        latents = validator.latents(predictor(net), net.config, device, bar.update)
    progress = weights.progress
    facts = {"step": progress.step, "stage": progress.stage, "is_averaged": weights.is_averaged}
    for score in validator.write(options.target, latents, device, facts):
        without = f"{score.frames_without_face} of {score.frames} frames without a face"
        print(f"{score.name}: FaceSim {score.face_sim:.3f}, {without}")
    print(f"Wrote {options.target}.")
