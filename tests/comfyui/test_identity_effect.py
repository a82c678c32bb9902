"""What each half of an identity does at each step, against diffusers' own predictions with and without it."""

import copy

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.comfyui.identity_effect import sample_with_identity_effect
from consisid_pack.consisid_core.comfyui.sampler import SamplerSettings, sample
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.types import GlobalID, LocalID
from diffusers import CogVideoXDDIMScheduler, ConsisIDTransformer3DModel
from helpers.oracle import SCHEDULER, reference_rotary

SEED = 7
SHAPE = (1, 16, 5, 20, 30)
SETTINGS = dict(seed=SEED, steps=3, cfg=6.0, sampler="ddim", guidance="constant", denoise=1.0)


class Setup:
    """The tiny weights on both sides, with random text and face features."""

    def __init__(self, model, folder):
        self.model = model
        self.reference = ConsisIDTransformer3DModel.from_pretrained(folder).eval()
        config = self.reference.config
        generator = torch.Generator().manual_seed(4)

        def randn(*shape):
            return torch.randn(shape, generator=generator)

        # diffusers takes the full length only.
        text = (1, config.max_text_seq_length, config.text_embed_dim)
        self.positive, self.negative = randn(*text), randn(*text)
        self.id_cond = randn(1, config.LFE_id_dim)
        self.hidden = [randn(1, 577, config.LFE_vit_dim) for _ in range(5)]
        latents = randn(*SHAPE)
        latents[:, :, 1:] = 0
        self.global_id = GlobalID(latents)
        with torch.inference_mode():
            self.local_id = LocalID(self.reference.local_facial_extractor(self.id_cond, self.hidden))


@pytest.fixture(scope="module")
def setup(run_node, models_dir):
    (model,) = run_node("ConsisIDModelLoader", model_name="consisid_demo/transformer", weight_dtype="default")
    return Setup(model, models_dir / "diffusion_models/consisid_demo/transformer")


@pytest.fixture
def conditioned(setup, run_node):
    """Two latent frames only, to be quick, unless another global_id is given."""
    short = GlobalID(setup.global_id.latents[:, :, :2])

    def condition(**options):
        inputs = {
            "positive": [[setup.positive, {}]],
            "negative": [[setup.negative, {}]],
            "global_id": short,
            "local_id": setup.local_id,
        }
        return run_node("ConsisIDConditioning", **{**inputs, **options})

    return condition


@pytest.fixture
def measure(setup, conditioned):
    """LATENT's samples and the effect."""

    @torch.inference_mode()
    def run(identity={}, **options):
        settings = {**SETTINGS, **options}
        model = settings.pop("model", setup.model)
        out, effect = sample_with_identity_effect(model, *conditioned(**identity), SamplerSettings(**settings))
        return out["samples"], effect

    return run


@pytest.mark.parametrize("options", [
    {}, {"sampler": "dpm"}, {"cfg": 1.0}, {"guidance": "dynamic", "sampler": "dpm"}, {"denoise": 0.5},
])  # fmt: skip
def test_latent_is_that_of_plain_sampling(setup, conditioned, measure, options):
    measured, effect = measure(**options)
    with torch.inference_mode():
        plain = sample(setup.model, *conditioned(), SamplerSettings(**{**SETTINGS, **options}))["samples"]
    assert torch.equal(measured, plain)
    assert effect.global_power.shape == effect.local_power.shape == effect.prediction_power.shape == (3, 16)
    assert effect.frequency.tolist() == [k / 30 for k in range(16)]


def test_latent_of_a_batch_with_a_mask_is_that_of_plain_sampling(setup, conditioned):
    positive, negative, latent = conditioned(batch_size=2)
    latent["noise_mask"] = torch.ones(1, 1, *latent["samples"].shape[2:])
    latent["noise_mask"][..., :10] = 0
    with torch.inference_mode():
        out, effect = sample_with_identity_effect(setup.model, positive, negative, latent, SamplerSettings(**SETTINGS))
        plain = sample(setup.model, positive, negative, latent, SamplerSettings(**SETTINGS))
    assert torch.equal(out["samples"], plain["samples"]) and out["samples"].shape[0] == 2
    assert set(out) == set(plain)
    assert (effect.global_power > 0).all() and (effect.local_power > 0).all()


def test_steps_are_those_of_the_schedule(measure):
    _, effect = measure(steps=4, sampler="dpm")
    assert effect.timesteps.tolist() == [999, 749, 499, 249]
    cumulative = CogVideoXDDIMScheduler(**SCHEDULER).alphas_cumprod.double().numpy()[[749, 499, 249]]
    np.testing.assert_allclose(effect.sigmas[1:], ((1 - cumulative) / cumulative) ** 0.5, rtol=1e-4)
    assert effect.sigmas[0] > 1000
    latent, effect = measure(denoise=0.0)
    assert not latent.any() and effect.sigmas.shape == (0,) and effect.local_power.shape == (0, 16)


def reference_power(setup, timestep):
    """Power of global effect, local effect and prediction at a noise level, from diffusers' net and numpy alone."""
    # ComfyUI's last is not quite zero.
    alpha = max(CogVideoXDDIMScheduler(**SCHEDULER).alphas_cumprod[timestep].item(), 4.8973451890853435e-08)
    noise = comfy.sample.prepare_noise(torch.zeros(SHAPE), SEED).transpose(1, 2)
    noisy = noise * (1 - alpha) ** 0.5

    @torch.inference_mode()
    def denoised(strength, face):
        image = 0.7 * strength * setup.global_id.latents.transpose(1, 2)
        setup.reference.is_train_face = face
        try:
            velocity = setup.reference(
                torch.cat([noisy, image], dim=2), setup.positive, torch.tensor([timestep]), id_cond=setup.id_cond,
                image_rotary_emb=reference_rotary(setup.reference.config, SHAPE[2]), id_vit_hidden=setup.hidden,
                return_dict=False,
            )[0]  # fmt: skip
        finally:
            setup.reference.is_train_face = True
        return (alpha**0.5 * noisy - (1 - alpha) ** 0.5 * velocity).double().numpy()

    y, x = np.mgrid[-10:10, -15:15]
    squares = (1.5 * y) ** 2 + x**2  # Of the distance in rings, 1/30 cycles per pixel.

    def power(latents):
        transform = np.fft.fftshift(np.fft.fft2(latents, norm="ortho"), axes=(-2, -1))
        mean = (np.abs(transform) ** 2).mean(axis=(0, 1, 2))
        return [mean[(squares >= max(k - 0.5, 0) ** 2) & (squares < (k + 0.5) ** 2)].mean() for k in range(16)]

    full = denoised(1, True)
    return power(full - denoised(0, True)), power(full - denoised(1, False)), power(full)


@pytest.mark.parametrize("denoise, timestep", [(1.0, 999), (0.5, 499), (0.25, 249)])
@pytest.mark.parametrize("cfg", [1.0, 6.0])
def test_power_equals_diffusers_predictions_with_and_without(setup, measure, denoise, timestep, cfg):
    _, effect = measure({"global_id": setup.global_id}, steps=1, denoise=denoise, cfg=cfg)
    assert effect.timesteps.tolist() == [timestep]
    expected_global, expected_local, expected_prediction = reference_power(setup, timestep)
    np.testing.assert_allclose(effect.global_power[0], expected_global, rtol=1e-4)
    np.testing.assert_allclose(effect.local_power[0], expected_local, rtol=1e-4)
    np.testing.assert_allclose(effect.prediction_power[0], expected_prediction, rtol=1e-4)
    # Both halves do something that the other does not, so a mix-up or an empty half would show.
    for power in (expected_global, expected_local):
        assert min(power) > 0
    assert not np.allclose(expected_global, expected_local, rtol=0.1)


@pytest.mark.parametrize("identity", [{"local_strength": 0.0}, {"local_id": None}])
def test_absent_local_half_has_no_power(measure, identity):
    _, effect = measure(identity)
    assert not effect.local_power.any() and (effect.global_power > 0).all()


def test_absent_global_half_has_no_power(measure):
    _, effect = measure({"global_strength": 0.0})
    assert not effect.global_power.any() and (effect.local_power > 0).all()
    _, effect = measure({"global_strength": 0.0, "local_strength": 0.0})
    assert not effect.global_power.any() and not effect.local_power.any() and (effect.prediction_power > 0).all()


def test_weaker_half_has_less_power(measure):
    for half in ("global", "local"):
        first = [getattr(measure({f"{half}_strength": s}, steps=1)[1], f"{half}_power").sum() for s in (0.1, 0.3, 1.0)]
        assert first[0] < first[1] < first[2], half


def test_range_leaves_steps_out(measure):
    _, effect = measure({"start_percent": 0.3, "end_percent": 0.65}, steps=10)
    acts = effect.local_power.any(axis=1).tolist()
    assert acts == [False] * 3 + [True] * 4 + [False] * 3
    assert (effect.local_power[3:7] > 0).all() and (effect.global_power > 0).all()


def counted(model, action=lambda count: None):
    """A clone that counts its evaluations, as (count of videos) each, and calls action with their number."""
    evaluations = []

    def wrapper(executor, x, *args, **kwargs):
        evaluations.append(len(x))
        action(len(evaluations))
        return executor(x, *args, **kwargs)

    patched = model.clone()
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", wrapper)
    return patched, evaluations


@pytest.mark.parametrize("identity, extra", [({}, 2), ({"local_id": None}, 1), ({"global_strength": 0.0}, 1)])
def test_cost_is_one_evaluation_for_each_half_that_acts(setup, measure, identity, extra):
    for cfg, plain in ((1.0, 1), (6.0, 2)):
        model, evaluations = counted(setup.model)
        measure(identity, model=model, cfg=cfg)
        assert sum(evaluations) == 3 * (plain + extra)


def test_model_that_comes_in_stays_as_it_is(setup, measure):
    """Options of other packs reach the extra evaluations, and none are added to the caller's model."""
    model, evaluations = counted(setup.model)
    calls = []
    model.set_model_sampler_post_cfg_function(lambda args: calls.append(1) or args["denoised"])
    before, weights = copy.deepcopy(model.model_options), {k: v.clone() for k, v in model.model.state_dict().items()}
    measure(model=model)
    assert sum(evaluations) == 12 and len(calls) == 3
    assert model.model_options == before and len(before["sampler_post_cfg_function"]) == 1
    after = model.model.state_dict()
    assert after.keys() == weights.keys() and all(torch.equal(after[k], v) for k, v in weights.items())


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5])
def test_interruption_stops_at_any_evaluation(setup, measure, stop_at):
    """At cfg 1 a step evaluates the full prompt, then without the global, then without the local half."""

    def interrupt(count):
        if count == stop_at:
            comfy.model_management.interrupt_current_processing()

    model, evaluations = counted(setup.model, interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        measure(model=model, cfg=1.0)
    assert len(evaluations) == stop_at
    assert measure(steps=1)[1].local_power.any()


def test_wrong_inputs_are_refused(setup, conditioned, measure):
    _, _, latent = conditioned()
    text = [[setup.positive, {}]]
    with pytest.raises(ConsisIDError, match="Connect ConsisID Conditioning's positive and negative"):
        sample_with_identity_effect(setup.model, text, text, latent, SamplerSettings(**SETTINGS))
    other = comfy.model_patcher.ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ConsisIDError, match="MODEL is a Linear, not ConsisID"):
        measure(model=other)
