"""Random nets of the face path by the packages that ConsisID's authors used."""

import torch
from consisid_eva_clip import get_model_config
from consisid_eva_clip.model import _build_vision_tower

from helpers.random_nets import randomise

TINY_EVA = {"width": 192, "layers": 21, "patch_size": 4, "image_size": 20}


def reference_eva(seed=0, output_dim=768, **sizes):
    config = get_model_config("EVA02-CLIP-L-14-336")["vision_cfg"]
    return randomise(_build_vision_tower(output_dim, config | sizes), seed)


def released_names(tower):
    """The state dict of a whole EVA-CLIP file: image tower, text tower, temperature."""
    text = {"text.token_embedding.weight": torch.zeros(8, 4), "logit_scale": torch.zeros(())}
    return {f"visual.{name}": x for name, x in tower.state_dict().items()} | text


def greatest_error(actual, expected):
    """The greatest difference, as a part of the greatest number."""
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()
