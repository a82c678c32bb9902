"""Face parsing against its oracle, facexlib, and what turns white."""

import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.parsing import WHITENED_LABELS, BiSeNet, keep_background, whiten_background
from diffusers.pipelines.consisid import consisid_utils as reference
from helpers.face_nets import greatest_error
from helpers.random_nets import randomise


def test_parser_equals_reference_at_full_width(reference_parser):
    parser = BiSeNet.from_state_dict(reference_parser.state_dict())
    assert not parser.training
    image = torch.randn(2, 3, 256, 192, generator=torch.Generator().manual_seed(1))
    error = greatest_error(parser(image), reference_parser(image)[0])
    print("BiSeNet at full width, relative error of the logits:", error)
    assert error <= 1e-5


def test_parser_takes_its_sizes_from_the_weights():
    saved = randomise(BiSeNet(num_classes=5, width=4), seed=2)
    parser = BiSeNet.from_state_dict(saved.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert parser(image).shape == (1, 5, 64, 64)
    assert torch.equal(parser(image), saved(image))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.clear(), "is not a BiSeNet face parser: .* is missing; it looks like an empty file"),
        (lambda w: w.pop("conv_out.conv_out.weight"), "conv_out.conv_out.weight is missing"),
        (lambda w: w.pop("conv_out16.conv.bn.running_var"), "conv_out16.conv.bn.running_var"),
        (lambda w: w.update({"ffm.conv1.weight": torch.zeros(3, 16, 1, 1)}), "ffm.conv1.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "extra"),
    ],
)
def test_parser_says_what_is_wrong_with_a_file(change, message):
    weights = BiSeNet(width=4).state_dict()
    change(weights)
    with pytest.raises(ConsisIDError, match=message):
        BiSeNet.from_state_dict(weights)


def test_every_whitened_label_turns_white_and_no_other():
    image = torch.rand(1, 3, 32, 32) * 0.9
    for label in range(19):
        parser = randomise(BiSeNet(width=4), seed=3)
        parser.forward = lambda x, label=label: torch.eye(19)[label].view(1, 19, 1, 1).expand(1, 19, 32, 32)
        colour, gray = whiten_background(parser, image)
        white = torch.ones_like(image)
        whitened = label in (0, 7, 8, 9, 14, 15, 16, 18)
        assert (label in WHITENED_LABELS) == whitened
        assert torch.equal(colour, white if whitened else image)
        assert torch.equal(gray, white if whitened else reference.to_gray(image))


def test_parser_in_half_precision_leaves_the_image_in_its_own():
    image = torch.rand(1, 3, 64, 64)
    colour, gray = whiten_background(randomise(BiSeNet(width=4), seed=3).bfloat16(), image)
    assert colour.dtype == gray.dtype == torch.float32


def test_background_can_be_kept():
    image = torch.rand(2, 3, 32, 32)
    colour, gray = keep_background(image)
    assert torch.equal(colour, image)
    assert torch.equal(gray, reference.to_gray(image))
