"""What a video is made of, as the net takes it. One process makes it for all, so that T5 is in memory once."""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import ConsisIDError
from ...evaluation.video import read_picture
from ...model.config import TransformerConfig
from ...training.cache import Geometry
from ...training.cases import Person, encode_person
from ...training.encoders import EncoderPaths, Encoders


@dataclass(frozen=True, eq=False)
class Request:
    """One video. Tensors are on the CPU."""

    person: Person
    text: torch.Tensor
    """[L, D] of the prompt."""
    negative: torch.Tensor
    """[L, D] of the negative prompt."""


@torch.inference_mode()
def make_request(
    photo: Path,
    prompts: tuple[str, str],
    geometry: Geometry,
    config: TransformerConfig,
    paths: EncoderPaths,
    device: torch.device,
    provider: str,
) -> Request:
    """Look at the photo and encode it and the prompts. The nets for that are freed again.

    Args:
        photo: of the person.
        prompts: prompt and negative prompt.
        geometry: of the video.
        config: of the net that makes it.
        paths: of the other nets.
        device: that runs them; provider: of the face pack.

    Raises:
        ConsisIDError: naming the photo, or the weights that do not belong together.
    """
    picture = read_picture(photo, upright=True)
    encoders = Encoders(paths, str(device), provider, config.max_text_length)
    try:
        person = encode_person(picture, geometry, encoders)
    except ConsisIDError as error:
        raise ConsisIDError(f"{photo}: {error}") from None
    texts = []
    for prompt in prompts:
        text, cut = encoders.encode_text(prompt)
        texts.append(text)
        if cut:
            logging.getLogger("consisid").warning("Cut %d tokens off the end of the prompt %r.", cut, prompt)
    del encoders
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    request = Request(person, *texts)
    _check(request, config, paths)
    return request


def _check(request, config, paths):
    face = config.facial_extractor
    wanted = {
        "text encoder": (request.text.shape[1], config.text_embed_dim),
        "face pack and EVA tower": (len(request.person.id_embedding), face.id_dim),
        "EVA tower": (request.person.hidden_states.shape[2], face.vit_dim),
    }
    for net, (width, expected) in wanted.items():
        if width != expected:
            raise ConsisIDError(
                f"The {net} gives features of width {width}, but the transformer takes {expected}: weights of "
                f"different releases are mixed. Those named or found are {paths.text_encoder}, {paths.pack} and "
                f"{paths.eva}."
            )
