"""What a photo and prompts become for the net, and which nets do not go together."""

from dataclasses import replace
from pathlib import Path

import comfy.text_encoders.sd3_clip
import numpy as np
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.batch.parallel.request import make_request
from consisid_pack.consisid_core.dev.tiny import TRANSFORMER
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.cache import Geometry
from consisid_pack.consisid_core.training.encoders import EncoderPaths
from PIL import Image

CPU = torch.device("cpu")
GEOMETRY = Geometry(width=96, height=64, frames=9)


@pytest.fixture(scope="module")
def paths(models_dir, pack):
    return EncoderPaths(
        vae=models_dir / "vae/consisid_demo/diffusion_pytorch_model.safetensors",
        text_encoder=models_dir / "text_encoders/consisid_demo/text_encoder",
        tokenizer=Path(comfy.text_encoders.sd3_clip.__file__).with_name("t5_tokenizer"),
        eva=models_dir / "consisid/consisid_demo/EVA02_CLIP_L_336_psz14_s6B.pt",
        parser=models_dir / "consisid/consisid_demo/parsing_bisenet.pth",
        pack=pack,
    )


def test_request(paths, tmp_path):
    photo = tmp_path / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(photo)
    request = make_request(photo, ("A smile", ""), GEOMETRY, TRANSFORMER, paths, CPU, "CPU")
    assert request.text.shape == request.negative.shape == (226, 64)
    assert not torch.equal(request.text, request.negative)
    person = request.person
    assert person.face_latents.shape == (16, 8, 12) and person.latent_frames == 3
    assert person.id_embedding.shape == (544,) and person.hidden_states.shape[::2] == (5, 64)

    other = replace(TRANSFORMER, text_embed_dim=4096)
    with pytest.raises(ConsisIDError, match="text encoder gives features of width 64, but the transformer takes 4096"):
        make_request(photo, ("A smile", ""), GEOMETRY, other, paths, CPU, "CPU")


def test_a_photo_without_a_face_is_named(paths, tmp_path):
    photo = tmp_path / "nobody.png"
    Image.fromarray(np.full((200, 200, 3), 127, np.uint8)).save(photo)
    with pytest.raises(ConsisIDError, match="nobody.png: .*No face found"):
        make_request(photo, ("A smile", ""), GEOMETRY, TRANSFORMER, paths, CPU, "CPU")
