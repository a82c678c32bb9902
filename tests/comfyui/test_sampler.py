"""Whole denoising loops in ComfyUI against diffusers' schedulers, and what each conditioning value does."""

import json
import sys
from functools import partial

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy_extras import nodes_custom_sampler
from consisid_pack.consisid_core.comfyui import sampler as comfyui_sampler
from consisid_pack.consisid_core.comfyui.transformer import load_transformer
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.model.config import INJECTION_PLANS
from consisid_pack.consisid_core.model.schedule import guidance_scales
from consisid_pack.consisid_core.types import GlobalID, LocalID
from helpers.injection import plain_forward
from helpers.oracle import build_reference, reference_loop, relative_error
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

import nodes as comfyui_nodes

SEED = 5
SHAPE = (1, 16, 3, 6, 8)


class Setup:
    """One random model on both sides, with the same text, identity and noise."""

    def __init__(self, folder):
        self.reference = build_reference(
            num_attention_heads=3, attention_head_dim=16, num_layers=4, in_channels=32, out_channels=16,
            sample_height=6, sample_width=8, sample_frames=9,
        )  # fmt: skip
        self.folder = folder
        self.reference.save_pretrained(folder)
        self.model = load_transformer(folder / "diffusion_pytorch_model.safetensors")
        generator = torch.Generator().manual_seed(3)

        def randn(*shape):
            return torch.randn(shape, generator=generator)

        self.positive, self.negative = randn(1, 11, 16), randn(1, 11, 16)
        self.id_cond = randn(1, 20)
        self.hidden = [randn(1, 9, 16) for _ in range(5)]
        latents = randn(*SHAPE)
        latents[:, :, 1:] = 0
        self.global_id = GlobalID(latents)
        with torch.inference_mode():
            self.local_id = LocalID(self.reference.local_facial_extractor(self.id_cond, self.hidden))

    def reference_result(self, steps, noise=None, global_strength=1.0, **options):
        """Unscaled latents [B, C, T, H, W] of the diffusers loop."""
        noise = self.noise() if noise is None else noise
        options.setdefault("id_cond", self.id_cond)
        options.setdefault("id_vit_hidden", self.hidden)
        image = 0.7 * global_strength * self.global_id.latents.transpose(1, 2)
        latents = reference_loop(
            self.reference, noise.transpose(1, 2), image, self.positive, self.negative, steps, **options
        )
        return latents.transpose(1, 2) / 0.7

    def noise(self, batch=1):
        return comfy.sample.prepare_noise(torch.zeros(batch, *SHAPE[1:]), SEED)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return Setup(tmp_path_factory.mktemp("transformer"))


@pytest.fixture
def conditioned(setup, run_node):
    def condition(**options):
        inputs = {
            "positive": [[setup.positive, {}]],
            "negative": [[setup.negative, {}]],
            "global_id": setup.global_id,
            "local_id": setup.local_id,
        }
        return run_node("ConsisIDConditioning", **{**inputs, **options})

    return condition


@pytest.fixture
def sample(setup, run_node, conditioned):
    """Latents of the ConsisID Sampler."""

    def run(steps, identity={}, latent={}, **options):
        positive, negative, empty = conditioned(**identity)
        (out,) = run_node(
            "ConsisIDSampler", model=setup.model, positive=positive, negative=negative,
            latent_image={**empty, **latent}, seed=SEED, steps=steps, **{"sampler": "ddim", **options},
        )  # fmt: skip
        return out["samples"]

    return run


@pytest.mark.parametrize("steps", [1, 7, 10, 20, 33, 50])
def test_ddim_equals_diffusers(setup, sample, steps):
    error = relative_error(sample(steps), setup.reference_result(steps))
    assert error <= 1e-3, error


@pytest.mark.parametrize("plan", INJECTION_PLANS)
def test_every_plan_of_injection_through_both_samplers(setup, sample, conditioned, plan):
    """Files of other plans than the release's: by the plan's plain form in the reference's loop."""
    fields = INJECTION_PLANS[plan]
    keys = {"is_kps" if key == "keypoints" else key: value for key, value in fields.items()}
    config = json.loads((setup.folder / "config.json").read_text())
    path = setup.folder / f"{plan}.safetensors"
    save_file(setup.reference.state_dict(), path, {"config": json.dumps({**config, **keys})})
    expected = setup.reference_result(4, predict=partial(plain_forward, setup.reference, fields))
    original, setup.model = setup.model, load_transformer(path)
    try:
        assert relative_error(sample(4), expected) <= 1e-3
        positive, negative, latent = conditioned()
        with torch.inference_mode():
            (out,) = comfyui_nodes.common_ksampler(
                setup.model, SEED, 4, 6.0, "euler", "simple", positive, negative, latent
            )
        assert relative_error(out["samples"], expected) <= 1e-3
        sample(2, sampler="dpm")
    finally:
        setup.model = original


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_stock_ksampler_equals_diffusers(setup, conditioned, steps):
    positive, negative, latent = conditioned()
    with torch.inference_mode():
        (out,) = comfyui_nodes.common_ksampler(
            setup.model, SEED, steps, 6.0, "euler", "simple", positive, negative, latent
        )
    error = relative_error(out["samples"], setup.reference_result(steps))
    assert error <= 1e-3, error


@pytest.mark.parametrize("steps", [1, 7, 10, 33, 50])
def test_dpm_equals_diffusers(setup, sample, steps, monkeypatch):
    def draws():
        generator = torch.Generator().manual_seed(99)
        return lambda: torch.randn(SHAPE, generator=generator)

    monkeypatch.setattr(comfyui_sampler, "seeded_noise", lambda seed, like: draws())
    theirs = draws()
    expected = setup.reference_result(steps, dpm_noise=lambda: theirs().transpose(1, 2))
    error = relative_error(sample(steps, sampler="dpm"), expected)
    assert error <= 5e-3, error


@pytest.mark.parametrize("guidance", ["dynamic", "dynamic_legacy"])
def test_dynamic_guidance_equals_diffusers(setup, sample, guidance):
    expected = setup.reference_result(10, guidance=guidance_scales(guidance, 6.0, 10))
    error = relative_error(sample(10, guidance=guidance), expected)
    assert error <= 1e-3, error
    assert relative_error(sample(10), expected) > 1e-2


def test_no_guidance_equals_diffusers(setup, sample):
    assert relative_error(sample(10, cfg=1.0), setup.reference_result(10, cfg=1.0)) <= 1e-3


def test_sampler_custom_advanced_equals_diffusers(setup, conditioned):
    positive, negative, latent = conditioned()
    guider = comfy.samplers.CFGGuider(setup.model)
    guider.set_conds(positive, negative)
    guider.set_cfg(6.0)
    sigmas = comfy.samplers.calculate_sigmas(setup.model.get_model_object("model_sampling"), "simple", 10)
    with torch.inference_mode():
        out = nodes_custom_sampler.SamplerCustomAdvanced.execute(
            nodes_custom_sampler.Noise_RandomNoise(SEED), guider, comfy.samplers.sampler_object("euler"), sigmas, latent
        ).args
    error = relative_error(out[0]["samples"], setup.reference_result(10))
    assert error <= 1e-3, error


def test_patches_of_other_packs_apply(setup, sample):
    """Attention override, block replacement and model wrapper, through the patcher as other packs set them."""
    plain, seen = sample(2), {"attention": 0, "block": 0, "model": 0}

    def attention(function, *args, **kwargs):
        seen["attention"] += 1
        return function(*args, **kwargs)

    def block(args, extra):
        seen["block"] += 1
        return extra["original_block"](args)

    def wrapper(executor, *args, **kwargs):
        seen["model"] += 1
        return executor(*args, **kwargs)

    original, patched = setup.model, setup.model.clone()
    patched.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = attention
    patched.set_model_patch_replace(block, "dit", "double_block", 1)
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", wrapper)
    setup.model = patched
    try:
        assert torch.equal(sample(2), plain)
    finally:
        setup.model = original
    # Each of two steps runs four blocks and two face attentions, with both prompts in one batch or one after the other.
    assert seen["model"] in (2, 4)
    assert seen["block"] == seen["model"] and seen["attention"] == 6 * seen["model"]


def test_global_strength(setup, sample):
    plain = sample(10)
    for strength in (0.0, 0.5):
        changed = sample(10, {"global_strength": strength})
        assert relative_error(changed, plain) > 1e-2
        assert relative_error(changed, setup.reference_result(10, global_strength=strength)) <= 1e-3


def test_local_strength_and_absence(setup, sample):
    plain = sample(10)
    setup.reference.local_face_scale = 0.5
    assert relative_error(sample(10, {"local_strength": 0.5}), setup.reference_result(10)) <= 1e-3
    setup.reference.local_face_scale = 1.0
    setup.reference.is_train_face = False
    try:
        faceless = setup.reference_result(10)
    finally:
        setup.reference.is_train_face = True
    assert relative_error(faceless, plain) > 1e-2
    for identity in ({"local_strength": 0.0}, {"local_id": None}):
        assert relative_error(sample(10, identity), faceless) <= 1e-3


def test_range_acts_on_the_expected_steps(setup, sample):
    reference, faces = setup.reference, []

    def predict(model_input, text, timestep, **options):
        fraction = 1 - timestep[0].item() / 999
        reference.is_train_face = 0.3 <= fraction <= 0.65
        faces.append(reference.is_train_face)
        return reference(model_input, text, timestep, **options)

    try:
        expected = setup.reference_result(10, predict=predict)
    finally:
        reference.is_train_face = True
    assert faces == [False] * 3 + [True] * 4 + [False] * 3
    actual = sample(10, {"start_percent": 0.3, "end_percent": 0.65})
    assert relative_error(actual, expected) <= 1e-3
    assert relative_error(actual, sample(10)) > 1e-2
    with pytest.raises(ConsisIDError, match="swap them"):
        sample(1, {"start_percent": 0.6, "end_percent": 0.5})


class Counted:
    """The setup's MODEL with its forwards and identity attentions counted: how many prompts went through each."""

    def __init__(self, setup, monkeypatch):
        self.prompts, self.identity_attentions = [], []
        patched = setup.model.clone()
        patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", self._forward)
        patched.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = self._attention
        monkeypatch.setattr(setup, "model", patched)

    def _forward(self, run, x, timestep, context, transformer_options, **kwargs):
        sigma = transformer_options["sigmas"][0].item()
        self.prompts += [(sigma, kind) for kind in transformer_options["cond_or_uncond"]]
        return run(x, timestep, context, transformer_options, **kwargs)

    def _attention(self, function, q, *args, **kwargs):
        options = kwargs["transformer_options"]
        if options.get("identity_attention"):
            self.identity_attentions += [options["block_index"]] * len(q)
        return function(q, *args, **kwargs)


@pytest.mark.parametrize("guidance", ["constant", "dynamic"])
def test_no_negative_prompt_is_evaluated_outside_the_range_of_guidance(setup, sample, monkeypatch, guidance):
    full = sample(10, guidance=guidance)
    assert torch.equal(sample(10, guidance=guidance, guidance_start=0.0, guidance_end=1.0), full)
    # At 999, 899, ... 99 the parts of sampling are 0, 0.1, ... 0.9.
    scales = guidance_scales(guidance, 6.0, 10)
    expected = setup.reference_result(10, guidance=[1.0] * 3 + scales[3:7] + [1.0] * 3)
    counted = Counted(setup, monkeypatch)
    actual = sample(10, guidance=guidance, guidance_start=0.3, guidance_end=0.65)
    assert relative_error(actual, expected) <= 1e-3 < relative_error(actual, full)
    by_sigma = {}
    for sigma, kind in counted.prompts:
        by_sigma.setdefault(sigma, []).append(kind)
    assert [sorted(by_sigma[sigma]) for sigma in sorted(by_sigma, reverse=True)] == (
        [[0]] * 3 + [[0, 1]] * 4 + [[0]] * 3
    )


def test_guidance_nowhere_and_at_the_end_of_a_schedule(setup, sample, monkeypatch):
    assert torch.equal(sample(5, guidance_start=0.95, guidance_end=0.97), sample(5, cfg=1.0))
    counted = Counted(setup, monkeypatch)
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(8))
    sample(5, latent={"samples": start}, denoise=0.5, guidance_end=0.65)  # The steps at 0.5, 0.6, 0.7, 0.8 and 0.9.
    assert len(counted.prompts) == 5 + 2
    with pytest.raises(ConsisIDError, match="guidance_start 0.6 lies after guidance_end 0.5; swap them"):
        sample(1, guidance_start=0.6, guidance_end=0.5)


def test_identity_acts_in_the_range_of_blocks(setup, sample, conditioned, monkeypatch):
    """The net attends the identity in blocks 0 and 2."""
    full = sample(5)
    assert torch.equal(sample(5, {"start_block": 0, "end_block": 999}), full)
    assert torch.equal(sample(5, {"start_block": 0, "end_block": 2}), full)
    second = setup.reference.perceiver_cross_attention[1].to_out.weight
    with monkeypatch.context() as patch:
        patch.setattr(second, "data", torch.zeros_like(second))
        expected = setup.reference_result(5)
    counted = Counted(setup, monkeypatch)
    assert relative_error(sample(5, {"start_block": 0, "end_block": 1}), expected) <= 1e-3
    assert counted.identity_attentions == [0] * 10
    counted.identity_attentions.clear()
    sample(5, {"start_block": 1, "end_block": 999})
    assert counted.identity_attentions == [2] * 10
    with torch.inference_mode():
        (out,) = comfyui_nodes.common_ksampler(
            setup.model, SEED, 5, 6.0, "euler", "simple", *conditioned(start_block=0, end_block=1)
        )
    assert relative_error(out["samples"], expected) <= 1e-3


def test_a_range_without_identity_attention_is_said(setup, sample, caplog):
    faceless = sample(2, {"local_id": None})
    assert torch.equal(sample(2, {"start_block": 1, "end_block": 1}), faceless)
    assert "No identity attention lies in blocks 1 to 1, so LOCAL_ID is left aside" in caplog.text
    caplog.clear()
    sample(2, {"start_block": 1, "end_block": 2})
    assert "No identity attention" not in caplog.text
    with pytest.raises(ConsisIDError, match="start_block 3 lies after end_block 2; swap them"):
        sample(1, {"start_block": 3, "end_block": 2})


def test_batch_of_two_equals_two_single_runs(sample):
    both = sample(5, {"batch_size": 2})
    assert both.shape[0] == 2
    for i in range(2):
        single = sample(5, latent={"batch_index": [i]})
        assert relative_error(both[i : i + 1], single) <= 1e-5
    assert relative_error(both[:1], both[1:]) > 1e-2


def test_limits_of_seed_and_schedule(setup, sample, conditioned, run_node):
    positive, negative, latent = conditioned()
    (out,) = run_node(
        "ConsisIDSampler", model=setup.model, positive=positive, negative=negative, latent_image=latent,
        seed=0xFFFFFFFFFFFFFFFF, steps=2,
    )  # fmt: skip
    assert out["samples"].isfinite().all()
    assert sample(2, sampler="dpm", denoise=0.002).isfinite().all()
    with pytest.raises(ConsisIDError, match="the end of 2000 steps"):
        sample(2, sampler="dpm", denoise=0.001)


@pytest.mark.parametrize("sampler", ["dpm", "ddim"])
def test_same_seed_gives_the_same_bits(sample, sampler):
    assert torch.equal(sample(4, sampler=sampler), sample(4, sampler=sampler))


def test_one_frame(setup, run_node, caplog):
    positive, negative, latent = run_node(
        "ConsisIDConditioning", positive=[[setup.positive, {}]], negative=[[setup.negative, {}]],
        global_id=GlobalID(setup.global_id.latents[:, :, :1]), local_id=setup.local_id,
    )  # fmt: skip
    (out,) = run_node(
        "ConsisIDSampler", model=setup.model, positive=positive, negative=negative, latent_image=latent, seed=1, steps=4
    )
    assert out["samples"].shape == (1, 16, 1, 6, 8) and out["samples"].isfinite().all()
    (warning,) = [record.message for record in caplog.records if record.name == "consisid"]
    assert warning.startswith("Sampling 64x48, 1 frames; the model was trained at 64x48, 9 frames only")


def test_denoise_runs_the_end_of_a_longer_schedule(setup, sample, run_node, conditioned):
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(8))
    half = sample(5, latent={"samples": start}, denoise=0.5)
    positive, negative, _ = conditioned()
    with torch.inference_mode():
        (stock,) = comfyui_nodes.common_ksampler(
            setup.model, SEED, 5, 6.0, "euler", "simple", positive, negative, {"samples": start}, denoise=0.5
        )
    assert relative_error(half, stock["samples"]) <= 1e-3
    assert torch.equal(sample(5, latent={"samples": start}, denoise=0.0), start)


class Waits(TorchFunctionMode):
    """Lists the functions of this pack that take values from a tensor, for which a device has to be waited for."""

    TAKERS = ("__float__", "__bool__", "__int__", "__index__", "item", "tolist", "cpu", "numpy")

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in self.TAKERS:
            caller = sys._getframe(1).f_code
            if "consisid_core" in caller.co_filename:
                self.places.append(caller.co_name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampler", ["dpm", "ddim"])
def test_no_step_waits_for_the_device(sample, sampler):
    def waits(steps, **options):
        with Waits() as seen:
            sample(steps=steps, sampler=sampler, guidance="dynamic", **options)
        return seen.places

    two, four = waits(2), waits(4)
    # What is taken comes from the schedule, a table on the host, before the first step; the result is looked at once.
    assert set(four) == {"_alpha", "sample", "_sample_checked"}
    assert all(two.count(place) == four.count(place) for place in ("sample", "_sample_checked"))
    # A range has to be compared with the level that the sampler is at.
    assert "_apply_model" in waits(2, identity={"start_percent": 0.1})


def test_a_step_cache_waits_for_the_device_before_the_first_step_only(setup, sample, run_node, monkeypatch):
    fit = setup.folder / "diffusion_pytorch_model.step_cache.json"
    fit.write_text('{"coefficients": [1, 0], "lowest": 1e-6, "highest": 1000}', encoding="utf-8")
    try:
        (cached,) = run_node("ConsisIDStepCache", model=setup.model, threshold=1.2)
    finally:
        fit.unlink()
    monkeypatch.setattr(setup, "model", cached)
    for steps in (4, 8):
        with Waits() as seen:
            sample(steps)
        assert set(seen.places) == {"_alpha", "sample", "_sample_checked", "skipped", "skipped_steps"}
        assert seen.places.count("skipped") == seen.places.count("skipped_steps") == 1


def test_sampler_can_be_interrupted(setup, sample):
    steps_done = []

    def interrupt_in_third_step(executor, *args, **kwargs):
        steps_done.append(1)
        if len(steps_done) == 3:
            comfy.model_management.interrupt_current_processing()
        return executor(*args, **kwargs)

    patched = setup.model.clone()
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", interrupt_in_third_step)
    original, setup.model = setup.model, patched
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sample(10, cfg=1.0)
    finally:
        setup.model = original
    assert len(steps_done) == 3
    sample(1)


def test_progress_and_previews_are_those_of_ksampler(setup, sample, monkeypatch):
    calls = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *rest, **more: calls.append((value, total))
    )
    sample(4)
    # Newer versions leave out reports that follow within a fraction of a second.
    assert calls == sorted(calls) and set(calls) <= {(i, 4) for i in range(1, 5)} and calls[-1] == (4, 4)
    assert len(calls) >= 2


def test_identity_of_another_size_is_refused(setup, run_node, conditioned):
    positive, negative, _ = conditioned()
    other = {"samples": torch.zeros(1, 16, 3, 8, 8)}
    with pytest.raises(ConsisIDError, match="GLOBAL_ID is made for 64x48, 9 frames, but the latent to sample is 64x64"):
        run_node("ConsisIDSampler", model=setup.model, positive=positive, negative=negative, latent_image=other, seed=1)
    with pytest.raises(ConsisIDError, match="GLOBAL_ID is made for"), torch.inference_mode():
        comfyui_nodes.common_ksampler(setup.model, 1, 1, 6.0, "euler", "simple", positive, negative, other)


def test_identity_or_text_of_another_model_is_refused(setup, sample):
    with pytest.raises(ConsisIDError, match="identity tokens of width 32"):
        sample(1, {"local_id": LocalID(torch.zeros(1, 32, 2048))})
    with pytest.raises(ConsisIDError, match="encoded as 11 tokens of width 768"):
        sample(1, {"positive": [[torch.zeros(1, 11, 768), {}]]})
    with pytest.raises(ConsisIDError, match="do not concatenate prompts"):
        sample(1, {"positive": [[torch.zeros(1, 22, 16), {}]]})


def test_stock_lora_loader(setup, sample):
    """LoRA files whose keys carry ComfyUI's generic prefix apply; strength 0 is the exact base."""
    name = "transformer_blocks.1.attn1.to_q"
    layer = setup.reference.get_submodule(name)
    down, up = torch.randn(4, layer.in_features), torch.randn(layer.out_features, 4)
    key = f"diffusion_model.{name}"
    lora = {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    original = setup.model
    plain = sample(2)
    try:
        setup.model, _ = comfy.sd.load_lora_for_models(original, None, lora, 0.5, 0)
        patched = sample(2)
        setup.model, _ = comfy.sd.load_lora_for_models(original, None, lora, 0.0, 0)
        assert torch.equal(sample(2), plain)
    finally:
        setup.model = original
    assert relative_error(patched, plain) > 1e-2
    layer.weight.data += 0.5 * up @ down
    try:
        assert relative_error(patched, setup.reference_result(2)) <= 1e-3
    finally:
        layer.weight.data -= 0.5 * up @ down
    assert torch.equal(sample(2), plain)
