"""What the identity adds to the conditioning. What each value does to a video is tested in test_sampler.py."""

import pytest
import torch
from consisid_pack.consisid_core.comfyui.conditioning import blend_local_ids, condition
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.types import GlobalID, LocalID

GLOBAL_ID = GlobalID(torch.ones(1, 16, 3, 4, 6))
LOCAL_ID = LocalID(torch.ones(1, 32, 8))


def prompt(value):
    return [[torch.full((1, 226, 64), value), {"pooled_output": None}]]


def test_both_prompts_get_the_identity_and_stay_as_they_were():
    prompts = prompt(1.0), prompt(2.0)
    positive, negative, latent = condition(*prompts, GLOBAL_ID, LOCAL_ID, 0.5, 2.0, 0.1, 0.8, batch_size=3)
    for out, given in zip((positive, negative), prompts, strict=True):
        ((text, options),) = out
        assert text is given[0][0] and given[0][1].keys() == {"pooled_output"}
        assert torch.equal(options["concat_latent_image"], GLOBAL_ID.latents * 0.5)
        assert options["identity_tokens"] is LOCAL_ID.tokens
        assert (options["identity_scale"], options["identity_range"]) == (2.0, (0.1, 0.8))
    assert latent["samples"].shape == (3, 16, 3, 4, 6) and not latent["samples"].any()


def test_blocks_are_named_only_where_not_all_of_them_attend():
    ((_, values),), _, _ = condition(prompt(1.0), prompt(2.0), GLOBAL_ID, LOCAL_ID)
    assert "identity_blocks" not in values
    ((_, values),), _, _ = condition(prompt(1.0), prompt(2.0), GLOBAL_ID, LOCAL_ID, start_block=4, end_block=9)
    assert values["identity_blocks"] == (4, 9)


@pytest.mark.parametrize("options", [{"local_id": None}, {"local_id": LOCAL_ID, "local_strength": 0}])
def test_without_the_local_half(options):
    ((_, values),), _, _ = condition(prompt(1.0), prompt(2.0), GLOBAL_ID, **options)
    assert not any(name.startswith("identity_") for name in values)


def test_blend_is_linear():
    other = LocalID(torch.full((1, 32, 8), 5.0))
    for ratio, expected in ((0, 1), (0.25, 2), (1, 5)):
        assert torch.equal(blend_local_ids(LOCAL_ID, other, ratio).tokens, torch.full((1, 32, 8), float(expected)))


@pytest.mark.parametrize("shape", [(1, 32, 64), (1, 16, 128), (2, 32, 128)])
def test_blend_refuses_tokens_of_another_shape(shape):
    one, other = LocalID(torch.zeros(1, 32, 128)), LocalID(torch.zeros(shape))
    with pytest.raises(ConsisIDError, match=r"\[1, 32, 128\].*Connect the same MODEL"):
        blend_local_ids(one, other, 0.5)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_blend_refuses_a_ratio_outside_its_range(ratio):
    with pytest.raises(ConsisIDError, match=r"outside 0\.\.1"):
        blend_local_ids(LocalID(torch.zeros(1, 2, 3)), LocalID(torch.ones(1, 2, 3)), ratio)
