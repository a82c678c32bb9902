"""The facial extractor and the face attention against diffusers' on random weights."""

import torch
from helpers.oracle import RELATIVE, random_inputs, relative_error


@torch.inference_mode()
def test_facial_extractor_and_face_attention_equal_diffusers(pair):
    reference, ours = pair
    latents, _, _, id_cond, hidden = random_inputs(reference)
    expected = reference.local_facial_extractor(id_cond, hidden)
    assert relative_error(ours.local_facial_extractor(id_cond, hidden), expected) <= RELATIVE
    image = torch.randn(2, 40, ours.config.hidden_dim)
    for theirs, mine in zip(reference.perceiver_cross_attention, ours.perceiver_cross_attention, strict=True):
        assert relative_error(mine(expected, image), theirs(expected, image)) <= RELATIVE
