"""The EVA tower against its oracles: consisid-eva-clip, and diffusers' path from the crop on."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.eva_clip import EvaClipVisual, preprocess
from consisid_pack.consisid_core.face.parsing import BiSeNet, whiten_background
from diffusers.pipelines.consisid import consisid_utils as reference
from helpers.face_nets import TINY_EVA, greatest_error, reference_eva, released_names
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import normalize, resize


def eva_errors(visual, tower, batch=2):
    image = torch.randn(batch, 3, visual.image_size, visual.image_size, generator=torch.Generator().manual_seed(1))
    embedding, hidden = visual(image)
    expected, expected_hidden = tower(image, return_hidden=True)
    expected = expected / expected.norm(dim=1, keepdim=True)
    assert len(hidden) == len(expected_hidden) == 5
    return [greatest_error(a, b) for a, b in zip([embedding, *hidden], [expected, *expected_hidden], strict=True)]


def test_eva_equals_reference_at_full_size():
    tower = reference_eva()
    visual = EvaClipVisual.from_state_dict(released_names(tower))
    assert visual.image_size == 336
    assert sum(x.numel() for x in visual.parameters()) == 304_432_832
    errors = eva_errors(visual, tower, batch=1)
    print("EVA tower at full size, relative error of the embedding and the five hidden states:", errors)
    assert max(errors) <= 1e-4


@pytest.mark.parametrize("prefix", ["visual.", ""])
def test_eva_takes_its_sizes_from_the_weights(tiny_eva, prefix):
    weights = released_names(tiny_eva) if prefix else tiny_eva.state_dict()
    visual = EvaClipVisual.from_state_dict(weights)
    assert visual.image_size == 20
    assert not visual.training
    errors = eva_errors(visual, tiny_eva)
    print("tiny EVA tower:", errors)
    assert max(errors) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_eva_runs_in_half_precision(tiny_eva, dtype):
    weights = {name: x.half() for name, x in released_names(tiny_eva).items()}
    weights["visual.norm.weight"] = weights["visual.norm.weight"].float()
    visual = EvaClipVisual.from_state_dict(weights)
    assert {x.dtype for x in visual.parameters()} == {torch.float16}
    image = torch.randn(1, 3, 20, 20)
    for tower in (visual, visual.to("cpu", dtype)):
        embedding, hidden = tower(image)
        assert {x.dtype for x in (embedding, *hidden)} == {next(tower.parameters()).dtype}
        expected, expected_hidden = tiny_eva(image, return_hidden=True)
        assert torch.cosine_similarity(embedding.float(), expected) > 0.99
        assert max(greatest_error(a.float(), b) for a, b in zip(hidden, expected_hidden, strict=True)) < 0.05


def test_rotary_positions_stay_exact_with_a_half_precision_file(tiny_eva):
    weights = {name: x.half() for name, x in released_names(tiny_eva).items()}
    rounded = reference_eva(output_dim=24, **TINY_EVA)
    for x in rounded.parameters():
        x.copy_(x.half())
    assert max(eva_errors(EvaClipVisual.from_state_dict(weights).float(), rounded)) <= 1e-5


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.clear(), "is not an EVA02-CLIP model: pos_embed is missing; it looks like an empty file"),
        (lambda w: w.pop("visual.blocks.0.mlp.w1.weight"), "visual.blocks.0.mlp.w1.weight is missing"),
        (lambda w: w.pop("visual.blocks.7.attn.q_bias"), "blocks.7.attn.q_proj.bias"),
        (lambda w: w.update({"visual.extra": torch.zeros(1)}), "extra"),
        (lambda w: w.update({"visual.cls_token": torch.zeros(1, 1, 64)}), "cls_token"),
        (lambda w: [w.pop(name) for name in list(w) if "blocks.20." in name], "20 blocks, where .* at least 21"),
        (lambda w: w.update({"visual.pos_embed": torch.zeros(1, 12, 192)}), "11 patches .* a square"),
    ],
)
def test_eva_says_what_is_wrong_with_a_file(tiny_eva, change, message):
    weights = released_names(tiny_eva)
    change(weights)
    with pytest.raises(ConsisIDError, match=message):
        EvaClipVisual.from_state_dict(weights)


@pytest.mark.parametrize("side, size", [(512, 336), (512, 20), (64, 64)])
def test_preprocess_equals_torchvision(side, size):
    checks = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(2, 3, 4, 4)
    image = checks.repeat_interleave(side // 8, 2).repeat_interleave(side // 8, 3)
    expected = resize(image, size, InterpolationMode.BICUBIC)
    assert size == side or expected.max() > 1  # bicubic overshoots at hard edges
    expected = normalize(expected, reference.OPENAI_DATASET_MEAN, reference.OPENAI_DATASET_STD)
    assert greatest_error(preprocess(image, size), expected) <= 1e-6


def test_face_path_equals_diffusers(tiny_eva, reference_parser):
    """One aligned crop through parsing, whitening, preprocessing and the tower, as `process_face_embeddings` does."""
    crop = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).repeat(64, 0).repeat(64, 1).astype(np.uint8)
    recogniser_output = np.zeros(512, np.float32)
    face_helper = SimpleNamespace(
        **dict.fromkeys(("clean_all", "align_warp_face"), lambda: None),
        **dict.fromkeys(("read_image", "get_face_landmarks_5"), lambda *args, **kwargs: None),
        cropped_faces=[crop[..., ::-1]],  # BGR
        face_parse=reference_parser,
    )
    analysis = SimpleNamespace(
        get=lambda image: [{"bbox": (0, 0, 9, 9), "embedding": recogniser_output, "kps": np.zeros((5, 2))}]
    )
    id_cond, expected_hidden, expected_colour, _ = reference.process_face_embeddings(
        face_helper, tiny_eva, None, reference.OPENAI_DATASET_MEAN, reference.OPENAI_DATASET_STD, analysis, "cpu",
        torch.float32, crop,
    )  # fmt: skip

    image = torch.from_numpy(crop).permute(2, 0, 1)[None] / 255.0
    parser = BiSeNet.from_state_dict(reference_parser.state_dict())
    colour, gray = whiten_background(parser, image)
    background = (colour == 1).all(dim=1, keepdim=True)
    whitened = background.float().mean()
    assert 0.1 < whitened < 0.9
    assert (colour != expected_colour).any(dim=1).float().mean() <= 1e-4  # labels may flip where two logits meet
    assert torch.equal(gray, torch.where(background, torch.ones_like(image), reference.to_gray(image)))

    visual = EvaClipVisual.from_state_dict(released_names(tiny_eva))
    embedding, hidden = visual(preprocess(gray, visual.image_size))
    pairs = zip([embedding, *hidden], [id_cond[:, 512:], *expected_hidden], strict=True)
    errors = [greatest_error(a, b) for a, b in pairs]
    print(f"face path against diffusers, {whitened:.0%} white, relative errors:", errors)
    assert max(errors) <= 1e-4
