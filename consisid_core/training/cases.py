"""`python -m consisid_core.training cases CASES.jsonl CACHE`: people and prompts of whom a run makes videos.

They go through the nets once, as the clips did, into CACHE/validation: training itself needs neither T5 nor EVA-CLIP.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..command_line import run_command
from ..errors import ConsisIDError, in_short
from ..evaluation.face_similarity import FaceScorer
from ..evaluation.models import PAPER_PACK
from ..evaluation.video import read_picture
from ..face.analyze import analyze_photos
from ..face.detector import FaceDetector
from ..face.keypoints import draw_keypoints, map_points
from ..face.providers import resolve_providers
from ..model.vae import CogVideoXVAE
from .cache import ClipCache, Geometry, check_nets
from .net_options import add_net_options, chosen_device, chosen_paths

if TYPE_CHECKING:
    from .encoders import Encoders

log = logging.getLogger("consisid")

FOLDER = "validation"
"""Of the cases in a cache."""

_INDEX = "index.json"
_KEYS = ("name", "photo", "prompt")
_TEXTS = ("name", "prompt")
_LARGEST_PHOTO = 512  # pixels of the longer side, for the strip


@dataclass(frozen=True, eq=False, kw_only=True)
class Person:
    """What a net is told of a photo. Latents are the VAE's means, unscaled: what inference has."""

    id_embedding: torch.Tensor
    """[1280] of recogniser and EVA tower, float32."""
    hidden_states: torch.Tensor
    """[5, N, D] of the EVA tower, float16."""
    face_latents: torch.Tensor
    """[16, h, w] float16."""
    keypoint_latents: torch.Tensor
    """[16, h, w] float16 of the drawn key points."""
    latent_frames: int
    """Of the video."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Case(Person):
    """One person and one prompt."""

    name: str
    """Of its video, without suffix."""
    prompt: str
    photo: torch.Tensor
    """[h, w, 3] uint8, made small: to be looked at."""
    arc: torch.Tensor
    """[512] float64 of length 1: the recogniser's embedding, to score by."""
    text: torch.Tensor
    """[L, D] float16."""


class CaseSet(Sequence):
    """The cases of a cache, in memory."""

    def __init__(self, cache: ClipCache) -> None:
        """
        Raises:
            ConsisIDError: the cache has none, or they are damaged.
        """
        self.folder = cache.folder / FOLDER
        self.empty_text = cache.empty_text
        try:
            content = json.loads((self.folder / _INDEX).read_text(encoding="utf-8"))
            self.vae, self.score_pack = Path(content["vae"]), Path(content["score_pack"])
            frames = cache.geometry.latent_size[0]
            self._cases = [_read_case(self.folder / f"{name}.safetensors", frames) for name in content["cases"]]
        # Whatever a missing or damaged file raises.
        except Exception as error:
            raise ConsisIDError(
                f"The cases in {self.folder} cannot be read ({in_short(error)}). Make them again: python -m "
                f"consisid_core.training cases CASES.jsonl {cache.folder}"
            ) from None

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, number: int) -> Case:
        return self._cases[number]

    def load_vae(self, device: torch.device | str) -> CogVideoXVAE:
        """The VAE that made the latents, in bf16 on a card.

        Raises:
            ConsisIDError: it is gone or damaged.
        """
        from .encoders import load_vae

        return load_vae(self.vae, device, "Run `cases` again with the VAE's new place")


def has_cases(cache: ClipCache) -> bool:
    """Whether `cases` was run for a cache."""
    return (cache.folder / FOLDER / _INDEX).is_file()


def _read_case(file, latent_frames):
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return Case(**opened.metadata(), **tensors, latent_frames=latent_frames)


@dataclass(frozen=True)
class Request:
    """One line of CASES.jsonl."""

    name: str
    photo: Path
    prompt: str


def read_requests(file: Path) -> list[Request]:
    """The lines of a CASES.jsonl; photos are relative to its folder, and names that are missing are made.

    Raises:
        ConsisIDError: naming the line and what is wrong with it.
    """
    import difflib

    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ConsisIDError(f"{file} cannot be read ({in_short(error)}).") from None
    requests = []
    for number, line in enumerate(lines, start=1):
        where = f"{file}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ConsisIDError(f"{where} is not JSON ({error}).") from None
        if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
            raise ConsisIDError(f'{where} must look like {{"photo": "me.jpg", "prompt": "A person ..."}}.')
        for key in entry.keys() - set(_KEYS):
            near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0)[0]
            raise ConsisIDError(f"{where} has an unknown key {key!r}. Did you mean {near!r}?")
        if missing := [key for key in ("photo", "prompt") if not entry.get(key)]:
            raise ConsisIDError(f"{where} has no {missing[0]}.")
        photo = file.parent / entry["photo"]
        name = entry.get("name") or f"{number:02d}_{photo.stem}"
        requests.append(Request(re.sub(r"[^\w-]+", "_", name), photo, entry["prompt"]))
    names = [request.name for request in requests]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ConsisIDError(f"{file} has two cases of the name {doubled[0]}. Give each a name of its own.")
    if not requests:
        raise ConsisIDError(f'{file} is empty. Write lines such as {{"photo": "me.jpg", "prompt": "A person ..."}}.')
    return requests


@torch.inference_mode()
def make_cases(
    requests: Sequence[Request], cache: ClipCache, encoders: Encoders, vae: Path, score_pack: Path, provider: str
) -> list[str]:
    """Write the cases of a cache, in the place of those that are there.

    Args:
        requests: people and prompts.
        cache: that they belong to: its size, its length of text.
        encoders: the nets that made it.
        vae: file of theirs; score_pack: insightface pack of the recogniser to score by. Both are read again to
            validate.
        provider: of `PROVIDER_CHOICES`, for the packs.

    Returns:
        Sentences about what is unusual.

    Raises:
        ConsisIDError: naming the photo that cannot be read or shows no face.
        OSError: they cannot be written.
    """
    from safetensors.torch import save
    from tqdm import tqdm

    scorer = FaceScorer(FaceDetector(score_pack, resolve_providers(provider)), "strict")
    folder = cache.folder / FOLDER
    unfinished = folder.with_name(f"{FOLDER}.{uuid.uuid4().hex}.part")
    notes = []
    try:
        unfinished.mkdir()
        for request in tqdm(requests, desc="cases", dynamic_ncols=True):
            try:
                case, cut = _make_case(request, cache.geometry, encoders, scorer)
            except ConsisIDError as error:
                raise ConsisIDError(f"{request.photo}: {error}") from None
            if cut:
                notes.append(f"The prompt of {request.name} is {cut} tokens too long; the end of it is cut off.")
            tensors = {
                field.name: getattr(case, field.name).contiguous()
                for field in fields(Case)
                if isinstance(getattr(case, field.name), torch.Tensor)
            }
            texts = {name: getattr(case, name) for name in _TEXTS}
            (unfinished / f"{request.name}.safetensors").write_bytes(save(tensors, texts))
        index = {
            "vae": str(vae.absolute()), "score_pack": str(score_pack.absolute()),
            "cases": [request.name for request in requests],
        }  # fmt: skip
        (unfinished / _INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return notes


def _make_case(request, geometry: Geometry, encoders, scorer):
    """(the case, number of tokens that were cut off its prompt)."""
    from PIL import Image

    photo = read_picture(request.photo, upright=True)
    person = encode_person(photo, geometry, encoders)
    text, cut = encoders.encode_text(request.prompt)
    small = Image.fromarray(photo)
    small.thumbnail((_LARGEST_PHOTO, _LARGEST_PHOTO))
    case = Case(
        name=request.name, prompt=request.prompt, photo=torch.from_numpy(np.array(small)),
        arc=torch.from_numpy(scorer.reference([photo]).arc), text=text, **vars(person),
    )  # fmt: skip
    return case, cut


def encode_person(photo: np.ndarray, geometry: Geometry, encoders: Encoders) -> Person:
    """The person with the largest face in a photo.

    Args:
        photo: [H, W, 3] uint8.
        geometry: of the video.

    Raises:
        ConsisIDError: there is no face in it, or it cannot be used.
    """
    image = torch.from_numpy(photo)[None].float() / 255
    face, _ = analyze_photos(encoders.detector, encoders.parser, image, "largest", 0)
    colour = (face.image[0].cpu().numpy() * 255).astype(np.uint8)
    points = draw_keypoints(map_points(face.alignment[0].numpy(), face.landmarks[0].numpy()))
    mean, _ = encoders.encode_pictures(torch.stack([_stretched(picture, geometry) for picture in (colour, points)]))
    eva_embedding, hidden_states = encoders.encode_face(face.gray_image.movedim(-1, 1))
    return Person(
        id_embedding=torch.cat((face.embedding[0].float(), eva_embedding.float())),
        hidden_states=hidden_states,
        face_latents=mean[0].half(),
        keypoint_latents=mean[1].half(),
        latent_frames=geometry.latent_size[0],
    )


def _stretched(picture, geometry):
    """[3, H, W] in -1..1, as inference stretches the face to the size of the video."""
    from PIL import Image

    stretched = Image.fromarray(picture).resize((geometry.width, geometry.height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(stretched)).movedim(-1, 0).float() / 127.5 - 1


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m consisid_core.training cases",
        description="Lets runs that train from CACHE make videos of these people and prompts at intervals. A line of "
        'CASES.jsonl is {"photo": "me.jpg", "prompt": "A person ...", "name": "me"}; the name may be missing.',
    )
    parser.add_argument("cases", metavar="CASES.jsonl", type=Path, help="one JSON object a line")
    parser.add_argument("cache", metavar="CACHE", type=Path, help="folder that `prepare` filled, with the same nets")
    nets = add_net_options(parser)
    nets.add_argument(
        "--score-pack", metavar="DIR", type=Path, help=f"insightface pack whose recogniser scores the videos (default: "
        f"{PAPER_PACK} beside the other pack, as in the paper, else that one)",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the command with these arguments. Returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    return run_command(lambda: _run(options), options.cache, "nothing was changed")


def _run(options):
    from .encoders import Encoders

    requests = read_requests(options.cases)
    cache = ClipCache(options.cache)
    paths = chosen_paths(options)
    check_nets(cache.index.nets, paths.fingerprints(), cache.folder)
    usual = paths.pack.with_name(PAPER_PACK)
    score_pack = options.score_pack or (usual if usual.is_dir() else paths.pack)
    encoders = Encoders(paths, chosen_device(options), options.provider, cache.geometry.text_length)
    for note in make_cases(requests, cache, encoders, paths.vae, score_pack, options.provider):
        print(f"note: {note}")
    print(f"Runs that train from {options.cache} make these videos at intervals.")
