"""What is said of what goes into a sampling, by whatever sampler: prompts without identity, and untrained sizes."""

import inspect

import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_context_windows, nodes_custom_sampler
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.types import GlobalID, LocalID

import nodes

LENGTH = 5
"""Latent frames that the demo weights were trained for."""
NOBODY = "No prompt carries an identity"


@pytest.fixture(scope="module")
def model(run_node):
    (model,) = run_node("ConsisIDModelLoader", model_name="consisid_demo/transformer")
    return model


def text(seed):
    return [[torch.randn(1, 226, 64, generator=torch.Generator().manual_seed(seed)), {}]]


@pytest.fixture(scope="module")
def identity(run_node):
    """positive and negative with an identity, and the latent, of a video of so many latent frames."""

    def condition(frames=LENGTH):
        image = torch.zeros(1, 16, frames, 20, 30)
        image[:, :, 0] = torch.randn(1, 16, 20, 30, generator=torch.Generator().manual_seed(3))
        tokens = torch.randn(1, 32, 64, generator=torch.Generator().manual_seed(4))
        return run_node(
            "ConsisIDConditioning", positive=text(0), negative=text(1), global_id=GlobalID(image),
            local_id=LocalID(tokens),
        )  # fmt: skip

    return condition


def consisid_sampler(run_node, model, positive, negative, latent, cfg):
    run_node(
        "ConsisIDSampler", model=model, positive=positive, negative=negative, latent_image=latent, steps=1, cfg=cfg,
        sampler="ddim",
    )  # fmt: skip


def ksampler(run_node, model, positive, negative, latent, cfg):
    nodes.KSampler().sample(model, 0, 1, cfg, "euler", "simple", positive, negative, latent)


def sigmas_of(model):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 1)


def sampler_custom(run_node, model, positive, negative, latent, cfg):
    nodes_custom_sampler.SamplerCustom.execute(
        model, True, 0, cfg, positive, negative, comfy.samplers.sampler_object("euler"), sigmas_of(model), latent
    )


def sample_by(guider, model, latent):
    nodes_custom_sampler.SamplerCustomAdvanced.execute(
        nodes_custom_sampler.Noise_RandomNoise(0), guider, comfy.samplers.sampler_object("euler"), sigmas_of(model),
        latent,
    )  # fmt: skip


def sampler_custom_advanced(run_node, model, positive, negative, latent, cfg):
    sample_by(nodes_custom_sampler.CFGGuider.execute(model, positive, negative, cfg).args[0], model, latent)


SAMPLERS = [consisid_sampler, ksampler, sampler_custom, sampler_custom_advanced]


@pytest.fixture
def said(run_node, caplog):
    """The pack's warnings in a sampling."""

    def run(sampler, *inputs, cfg=6.0):
        caplog.clear()
        with torch.inference_mode():
            sampler(run_node, *inputs, cfg)
        return [record.getMessage() for record in caplog.records if record.name == "consisid"]

    return run


# Prompts without identity


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_prompt_wired_past_the_identity_is_named_by_every_sampler(sampler, said, model, identity):
    positive, negative, latent = identity()
    assert said(sampler, model, positive, negative, latent) == []
    for name, prompts in (("negative", (positive, text(1))), ("positive", (text(0), negative))):
        (message,) = said(sampler, model, *prompts, latent)
        assert message.startswith(f"{name} carries no identity, though other prompts of this sampler have one")
        assert f"Wire the {name} output of ConsisID Conditioning into {name}" in message


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_negative_prompt_that_is_left_out_is_not_spoken_of(sampler, said, model, identity):
    positive, _, latent = identity()
    assert said(sampler, model, positive, text(1), latent, cfg=1.0) == []


def test_dynamic_guidance_which_begins_at_1_speaks_of_it_later(said, model, identity):
    def dynamic(run_node, model, positive, negative, latent, cfg):
        run_node(
            "ConsisIDSampler", model=model, positive=positive, negative=negative, latent_image=latent, steps=3,
            cfg=cfg, guidance="dynamic",
        )  # fmt: skip

    positive, _, latent = identity()
    (message,) = said(dynamic, model, positive, text(1), latent)
    assert message.startswith("negative carries no identity")


def combined(with_identity, plain):
    return nodes.ConditioningCombine().combine(with_identity, plain)[0]


def averaged_into_plain(with_identity, plain):
    return nodes.ConditioningAverage().addWeighted(plain, with_identity, 0.5)[0]


@pytest.mark.parametrize(
    ("mix", "part"),
    [(combined, "has 1 of 2 prompts with no identity"), (averaged_into_plain, "carries no identity")],
)
@pytest.mark.parametrize("name", ["positive", "negative"])
def test_prompts_combined_or_averaged_after_the_identity(name, mix, part, said, model, identity):
    positive, negative, latent = identity()
    prompts = {"positive": positive, "negative": negative}
    prompts[name] = mix(prompts[name], text(7))
    (message,) = said(ksampler, model, *prompts.values(), latent)
    assert message.startswith(f"{name} {part}") and "combine or average prompts before that node" in message


def test_prompts_that_keep_the_identity_are_not_spoken_of(said, model, identity):
    positive, negative, latent = identity()
    averaged = nodes.ConditioningAverage().addWeighted(positive, text(7), 0.5)[0]
    zeroed = nodes.ConditioningZeroOut().zero_out(negative)[0]
    both = nodes.ConditioningCombine().combine(positive, averaged)[0]
    assert said(ksampler, model, both, zeroed, latent) == []


def test_concatenated_prompts_are_refused(said, model, identity):
    positive, negative, latent = identity()
    for joined in (
        nodes.ConditioningConcat().concat(positive, text(7)),
        nodes.ConditioningConcat().concat(text(7), positive),
    ):
        with pytest.raises(ConsisIDError, match="452 tokens .* do not concatenate prompts"):
            said(ksampler, model, *joined, negative, latent)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampling_without_any_identity(sampler, said, model, identity):
    (message,) = said(sampler, model, text(0), text(1), identity()[2])
    assert message.startswith(NOBODY) and "positive and negative outputs of ConsisID Conditioning" in message


def test_a_guider_of_one_prompt(said, model, identity):
    def basic(run_node, model, positive, negative, latent, cfg):
        sample_by(nodes_custom_sampler.BasicGuider.execute(model, positive).args[0], model, latent)

    positive, _, latent = identity()
    assert said(basic, model, positive, None, latent) == []
    assert said(basic, model, text(0), None, latent)[0].startswith(NOBODY)


# Sizes


def in_windows(model, length, **options):
    """The model with context windows of so many latent frames."""
    node = nodes_context_windows.ContextWindowsManualNode
    known = inspect.signature(node.execute).parameters  # Fewer in older versions.
    values = {
        "context_length": length, "context_overlap": 2, "context_schedule": "standard_static", "context_stride": 1,
        "closed_loop": False, "fuse_method": "pyramid", "dim": 2, "freenoise": False, **options,
    }  # fmt: skip
    return node.execute(model, **{name: value for name, value in values.items() if name in known}).args[0]


@pytest.fixture
def seen(model):
    """Latent frames of what the net was given."""
    frames = set()
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda net, args: frames.add(args[0].shape[2]))
    yield frames
    hook.remove()


needs_windows = pytest.mark.skipif(
    "causal_window_fix" not in inspect.signature(nodes_context_windows.ContextWindowsManualNode.execute).parameters,
    reason="this ComfyUI does not cut image latents into windows",
)


@needs_windows
def test_windows_of_the_trained_length_are_not_warned_of(said, seen, model, identity):
    windows = in_windows(model, LENGTH, causal_window_fix=False)
    assert said(ksampler, windows, *identity(9)) == []
    assert seen == {LENGTH}


@needs_windows
def test_windows_of_another_length_are_what_is_warned_of(said, seen, model, identity):
    windows = in_windows(model, 3, causal_window_fix=False)
    (message,) = said(ksampler, windows, *identity(9))
    assert message.startswith(
        "Sampling in windows of 240x160, 9 frames; the model was trained at 240x160, 17 frames only"
    )
    assert seen == {3}


@needs_windows
def test_the_frame_of_the_causal_fix_counts(said, seen, model, identity):
    assert said(ksampler, in_windows(model, LENGTH - 1), *identity(9)) == []
    assert seen == {LENGTH - 1, LENGTH}  # The first window has none before it.
    (message,) = said(ksampler, in_windows(model, LENGTH), *identity(9))
    assert message.startswith("Sampling in windows of 240x160, 21 frames;")


def test_a_video_that_fits_into_one_window_is_warned_of_as_it_is(said, model, identity):
    (message,) = said(ksampler, in_windows(model, 4), *identity(3))
    assert message.startswith("Sampling 240x160, 9 frames;")
