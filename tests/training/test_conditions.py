"""What an example is made of, counted over many. Each part of the recipe is switched off once."""

import dataclasses
import logging

import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.cache import ClipCache
from consisid_pack.consisid_core.training.conditions import DRAWS, Examples, stacked
from helpers.training import VARIANTS, random_clip, write_random_cache
from helpers.training_runs import NET, small_clips, small_config

COUNT = 200


def told_apart(reference, number):
    """A reference whose embedding is a number, and whose latents without spread are those of their variants."""
    variants = torch.arange(VARIANTS).view(-1, 1, 1, 1).expand_as(reference.latent_mean).half()
    return dataclasses.replace(
        reference, embedding=torch.full((512,), float(number)), latent_mean=variants, keypoint_mean=10 + variants,
        latent_std=torch.zeros_like(reference.latent_std), keypoint_std=torch.zeros_like(reference.keypoint_std),
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Four clips, each of a person of its own: references 0 and 1 from inside, 2 from outside."""
    clips = [
        dataclasses.replace(
            random_clip(seed, text_length=12, text_dim=24, person=f"person {seed}"),
            latent_std=torch.zeros(16, 3, 4, 6).half(),
        )
        for seed in range(4)
    ]
    clips = [
        dataclasses.replace(
            clip,
            inside=[told_apart(reference, number) for number, reference in enumerate(clip.inside)],
            outside=[told_apart(clip.outside[0], 2)],
        )
        for clip in clips
    ]
    return ClipCache(write_random_cache(tmp_path_factory.mktemp("conditions"), clips))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return small_config(tmp_path_factory.mktemp("config"))


def examples(config, cache, net=NET, mask_probability=0.0, seed=0, attempt=0, image="face", **conditions):
    off = dict(cross_face=0.0, reference_noise=False, image_dropout=0.0, text_dropout=0.0, identity_dropout=0.0)
    off |= {"token_dropout": 0.0}
    stage = dataclasses.replace(config.stages["fine"], image=image)
    conditions = dataclasses.replace(config.conditions, **{**off, **conditions})
    return Examples(cache, net, stage, conditions, mask_probability, seed, attempt)


def many(*arguments, **options):
    made = examples(*arguments, **options)
    return stacked([made[n] for n in range(COUNT)])


def is_near(count, probability, of=COUNT):
    """Within four standard deviations, and exactly so where there is no chance."""
    return abs(count - probability * of) <= 4 * (of * probability * (1 - probability)) ** 0.5


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_cross_face_takes_references_from_outside_as_often_as_it_should(config, cache, beta):
    batch = many(config, cache, cross_face=beta)
    is_outside = batch.id_embedding[:, 0] == 2
    assert is_near(is_outside.sum(), beta)
    assert torch.equal(batch.drawn[:, DRAWS.index("cross face")].bool(), is_outside)
    if beta < 1:
        assert is_near((batch.id_embedding[:, 0] == 0).sum(), (1 - beta) / 2)


def test_cross_face_goes_to_other_clips_of_the_person(config, tmp_path, caplog):
    clips = small_clips(4, outside=0)
    clips = [
        dataclasses.replace(clip, person=person, inside=[told_apart(r, number) for r in clip.inside])
        for number, (clip, person) in enumerate(zip(clips, ("anna", "anna", "anna", "bob"), strict=True))
    ]
    cache = ClipCache(write_random_cache(tmp_path / "cache", clips))
    with caplog.at_level(logging.WARNING, logger="consisid"):
        made = examples(config, cache, cross_face=1.0)
    assert "1 of 4 clips have no picture of the person from outside" in caplog.text
    seen = {}
    for n in range(80):
        seen.setdefault(made.order.clip(n), set()).add(made[n].id_embedding[0].item())
    assert seen == {0: {1, 2}, 1: {0, 2}, 2: {0, 1}, 3: {3}}


def test_reference_noise_takes_the_noisy_variants_alone(config, cache):
    def variants(noise):
        return (many(config, cache, reference_noise=noise).image_latents[:, :, 0] / 0.7).round().flatten(1)[:, 0]

    assert variants(False).unique().tolist() == [0]
    noisy = variants(True)
    assert noisy.unique().tolist() == [1, 2] and is_near((noisy == 1).sum(), 0.5)


@pytest.mark.parametrize(
    ("name", "draw"),
    [("image_dropout", "no image"), ("text_dropout", "no text"), ("identity_dropout", "no identity")],
)
@pytest.mark.parametrize("probability", [0.0, 0.1])
def test_drops_come_as_often_as_they_should(config, cache, name, draw, probability):
    batch = many(config, cache, reference_noise=True, **{name: probability})
    dropped = {
        "image_dropout": (batch.image_latents == 0).flatten(1).all(1),
        "text_dropout": (batch.text == 0).flatten(1).all(1),  # The encoding of no text in this cache.
        "identity_dropout": batch.identity_scale == 0,
    }
    for other, which in dropped.items():
        assert is_near(which.sum(), probability if other == name else 0), other
    assert torch.equal(batch.drawn[:, DRAWS.index(draw)].bool(), dropped[name])


@pytest.mark.parametrize("probability", [0.0, 0.2])
def test_single_tokens_are_dropped_as_often_as_they_should(config, cache, probability):
    kept = many(config, cache, token_dropout=probability).kept_tokens
    assert kept.shape == (COUNT, NET.facial_extractor.num_queries)
    assert is_near((kept == 0).sum(), probability, kept.numel())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_mask_counts_as_often_as_it_should(config, cache, alpha):
    masks = many(config, cache, mask_probability=alpha).mask
    assert is_near((masks < 1).flatten(1).any(1).sum(), alpha)


def test_a_face_too_small_for_the_grid_leaves_the_whole_picture(config, tmp_path):
    clips = [dataclasses.replace(clip, mask=torch.zeros_like(clip.mask)) for clip in small_clips(2)]
    made = examples(config, ClipCache(write_random_cache(tmp_path / "cache", clips)), mask_probability=1.0)
    assert (made[0].mask == 1).all() and made[0].drawn[DRAWS.index("masked")] == 0


def test_timesteps_are_uniform_and_noise_is_normal(config, cache):
    batch = many(config, cache)
    counts = torch.histc(batch.timestep.float(), bins=4, min=0, max=1000)
    assert all(is_near(count, 0.25) for count in counts)
    assert 0 <= batch.timestep.min() and batch.timestep.max() <= 999
    assert abs(batch.noise.mean()) < 0.01 and abs(batch.noise.std() - 1) < 0.01


def test_latents_are_samples_of_the_posterior_times_the_scale(config, tmp_path):
    clip = small_clips(1)[0]
    clip = dataclasses.replace(clip, latent_mean=clip.latent_mean * 0 + 3, latent_std=clip.latent_std * 0 + 2)
    made = examples(config, ClipCache(write_random_cache(tmp_path / "cache", [clip])))
    latents = torch.stack([made[n].latents for n in range(50)])
    assert latents.mean() == pytest.approx(3 * 0.7, abs=0.05) and latents.std() == pytest.approx(2 * 0.7, abs=0.05)


def test_the_image_is_the_face_or_the_first_frame_or_nothing(config, cache):
    face = examples(config, cache)[0].image_latents
    assert (face[:, 1:] == 0).all()
    with_keypoints = examples(config, cache, net=dataclasses.replace(NET, keypoints=True))[0].image_latents
    assert (with_keypoints[:, 1] == 7).all() and (with_keypoints[:, 2:] == 0).all()
    first = examples(config, cache, image="first_frame")[0]
    assert torch.equal(first.image_latents[:, 0], first.latents[:, 0]) and (first.image_latents[:, 1:] == 0).all()
    assert (examples(config, cache, image="none")[0].image_latents == 0).all()


def test_an_example_follows_from_its_number(config, cache):
    def tensors(made, number):
        return vars(made[number]).values()

    everything = dict(cross_face=0.5, reference_noise=True, image_dropout=0.5, token_dropout=0.5, mask_probability=0.5)
    made = examples(config, cache, **everything)
    [made[n] for n in range(3)]
    again = examples(config, cache, **everything)
    assert all(map(torch.equal, tensors(made, 5), tensors(again, 5)))
    for other in (examples(config, cache, seed=1, **everything), examples(config, cache, attempt=1, **everything)):
        assert not torch.equal(other[5].noise, made[5].noise)
    assert examples(config, cache, attempt=1, **everything).order.clip(5) == made.order.clip(5)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (dict(text_embed_dim=32), "width of the text 24 instead of 32"),
        (dict(out_channels=8), "channels of latents 16 instead of 8"),
        (dict(max_text_length=11), "have 12 tokens, and the transformer takes 11"),
        (
            dict(facial_extractor=dataclasses.replace(NET.facial_extractor, id_dim=1280, vit_dim=128)),
            "width of the identity 544 instead of 1280, width of the EVA tower 64 instead of 128",
        ),
    ],
)
def test_a_cache_for_another_net_is_refused(config, cache, net, words):
    with pytest.raises(ConsisIDError, match=words):
        examples(config, cache, net=dataclasses.replace(NET, **net))


def test_a_cache_without_noisy_references_is_refused(config, tmp_path):
    clip = small_clips(1)[0]
    plain = [
        dataclasses.replace(
            reference, **{name: value[:1] for name, value in vars(reference).items() if len(value) == 3}
        )
        for reference in clip.inside
    ]
    cache = ClipCache(write_random_cache(tmp_path / "cache", [dataclasses.replace(clip, inside=plain)]))
    examples(config, cache)
    with pytest.raises(ConsisIDError, match="no references with noise, which conditions.reference_noise asks for"):
        examples(config, cache, reference_noise=True)
