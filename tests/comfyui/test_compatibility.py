"""docs/compatibility.md, row by row: what nodes of ComfyUI do to our model, shown by what comes out with and without.

A node that the ComfyUI under test lacks is skipped.
"""

import importlib
import inspect

import comfy.hooks
import comfy.patcher_extension
import comfy.samplers
import comfy.sd
import folder_paths
import pytest
import torch
import torch._dynamo
from comfy.ldm.modules.attention import attention_pytorch
from consisid_pack.consisid_core.comfyui.transformer import load_transformer
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.types import GlobalID, LocalID
from diffusers import AutoencoderKLCogVideoX
from helpers.oracle import build_reference, relative_error

import nodes as comfyui_nodes

SIZE = (6, 8)
ROUNDING = 1e-5


def core(module, name, **inputs):
    """The first output of a node of ComfyUI; inputs that its version does not know are left out."""
    try:
        node = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        pytest.skip(f"this ComfyUI has no {name}")
    if hasattr(node, "define_schema"):
        known = inspect.signature(node.execute).parameters
        output = node.execute(**{key: value for key, value in inputs.items() if key in known})
        return getattr(output, "args", output)[0]
    return getattr(node(), node.FUNCTION)(**inputs)[0]


class Net:
    """A small random model with text and identity."""

    def __init__(self, folder):
        build_reference(
            num_attention_heads=3, attention_head_dim=16, num_layers=4, in_channels=32, out_channels=16,
            sample_height=SIZE[0], sample_width=SIZE[1], sample_frames=9,
        ).save_pretrained(folder)  # fmt: skip
        self.path = folder / "diffusion_pytorch_model.safetensors"
        self.model = load_transformer(self.path)
        self.generator = torch.Generator().manual_seed(3)
        self.prompt, self.negative, self.other_prompt = (self.randn(1, 11, 16) for _ in range(3))
        self.tokens = self.randn(1, 3, 32)
        self.face = self.randn(1, 16, 1, *SIZE)

    def randn(self, *shape):
        return torch.randn(shape, generator=self.generator)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return Net(tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def conditioned(net, run_node):
    """positive, negative and LATENT of ConsisID Conditioning for so many latent frames."""

    def condition(frames=3, prompt=None):
        image = torch.cat((net.face, net.face.new_zeros(1, 16, frames - 1, *SIZE)), dim=2)
        return run_node(
            "ConsisIDConditioning", positive=[[net.prompt if prompt is None else prompt, {}]],
            negative=[[net.negative, {}]], global_id=GlobalID(image), local_id=LocalID(net.tokens),
        )  # fmt: skip

    return condition


@pytest.fixture(scope="module")
def ksampler(net, conditioned):
    """Samples of ComfyUI's KSampler."""

    def run(model=None, conds=None, latent=None, frames=3, steps=5, sampler="euler", denoise=1.0):
        positive, negative, empty = conds or conditioned(frames)
        with torch.inference_mode():
            (out,) = comfyui_nodes.common_ksampler(
                model or net.model, 5, steps, 6.0, sampler, "simple", positive, negative, latent or empty,
                denoise=denoise,
            )  # fmt: skip
        return out["samples"]

    return run


@pytest.fixture(scope="module")
def consisid_sampler(net, conditioned, run_node):
    """Samples of the ConsisID Sampler."""

    def run(model=None, latent=None, frames=3, steps=5, **options):
        positive, negative, empty = conditioned(frames)
        (out,) = run_node(
            "ConsisIDSampler", model=model or net.model, positive=positive, negative=negative,
            latent_image=latent or empty, seed=5, steps=steps, **{"sampler": "ddim", **options},
        )  # fmt: skip
        return out["samples"]

    return run


@pytest.fixture(params=["KSampler", "ConsisID Sampler"])
def sample(request):
    return request.getfixturevalue({"KSampler": "ksampler", "ConsisID Sampler": "consisid_sampler"}[request.param])


@pytest.fixture(scope="module")
def answer(ksampler):
    """What the net says, in steps so many that more change little."""
    return ksampler(steps=60)


# Nodes that patch MODEL

TAKE_EFFECT = {
    "APG": ("nodes_apg", {"eta": 1.0, "norm_threshold": 5.0, "momentum": 0.0}),
    "CFGZeroStar": ("nodes_cfg", {}),
    "CFGNorm": ("nodes_cfg", {"strength": 1.0}),
    "TCFG": ("nodes_tcfg", {}),
    "Mahiro": ("nodes_mahiro", {}),
    "FreSca": ("nodes_fresca", {"scale_low": 1.0, "scale_high": 1.25, "freq_cutoff": 2}),
    "RescaleCFG": ("nodes_model_advanced", {"multiplier": 0.7}),
    "SkipLayerGuidanceDiT": ("nodes_slg", {
        "double_layers": "1,2", "single_layers": "", "scale": 3.0, "start_percent": 0.01, "end_percent": 0.9,
        "rescaling_scale": 0.0,
    }),
    "SkipLayerGuidanceDiTSimple": ("nodes_slg", {
        "double_layers": "1,2", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0,
    }),
    "SkipLayerGuidanceSD3": ("nodes_sd3", {"layers": "1,2", "scale": 3.0, "start_percent": 0.01, "end_percent": 0.9}),
    "TemporalScoreRescaling": ("nodes_eps", {"tsr_k": 0.95, "tsr_sigma": 1.0}),
    "VideoLinearCFGGuidance": ("nodes_video_model", {"min_cfg": 1.0}),
    "VideoTriangleCFGGuidance": ("nodes_video_model", {"min_cfg": 1.0}),
}  # fmt: skip

DO_NOTHING = {
    "NAGuidance": ("nodes_nag", {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}),
    "PerturbedAttentionGuidance": ("nodes_pag", {"scale": 3.0}),
    "SelfAttentionGuidance": ("nodes_sag", {"scale": 0.5, "blur_sigma": 2.0}),
    "TomePatchModel": ("nodes_tomesd", {"ratio": 0.3}),
    "HyperTile": ("nodes_hypertile", {"tile_size": 256, "swap_size": 2, "max_depth": 0, "scale_depth": False}),
    "PatchModelAddDownscale": ("nodes_model_downscale", {
        "block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.35,
        "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic",
    }),
    "ScaleROPE": ("nodes_rope", {
        "scale_x": 2.0, "shift_x": 0.0, "scale_y": 2.0, "shift_y": 0.0, "scale_t": 1.0, "shift_t": 0.0,
    }),
    "UNetSelfAttentionMultiply": ("nodes_attention_multiply", {"q": 1.2, "k": 1.0, "v": 1.0, "out": 1.0}),
    "ModelSamplingDiscrete": ("nodes_model_advanced", {"sampling": "v_prediction", "zsnr": True}),
}  # fmt: skip

SPOIL = {
    "ModelSamplingSD3": ("nodes_model_advanced", {"shift": 3.0}),
    "ModelSamplingAuraFlow": ("nodes_model_advanced", {"shift": 1.73}),
    "ModelSamplingFlux": ("nodes_model_advanced", {
        "max_shift": 1.15, "base_shift": 0.5, "width": 64, "height": 48,
    }),
    "ModelSamplingLTXV": ("nodes_lt", {"max_shift": 2.05, "base_shift": 0.95}),
    "ModelSamplingContinuousEDM": ("nodes_model_advanced", {
        "sampling": "v_prediction", "sigma_max": 120.0, "sigma_min": 0.002,
    }),
    "ModelSamplingContinuousV": ("nodes_model_advanced", {
        "sampling": "v_prediction", "sigma_max": 500.0, "sigma_min": 0.03,
    }),
    "ModelSamplingDiscrete": ("nodes_model_advanced", {"sampling": "eps", "zsnr": False}),
    "EpsilonScaling": ("nodes_eps", {"scaling_factor": 1.005}),
}  # fmt: skip


def patched(nodes, name, model):
    module, inputs = nodes[name]
    return core(f"comfy_extras.{module}", name, model=model, **inputs)


@pytest.mark.parametrize("name", TAKE_EFFECT)
def test_takes_effect(name, net, sample):
    plain, changed = sample(), sample(patched(TAKE_EFFECT, name, net.model))
    assert changed.isfinite().all() and 1e-3 < relative_error(changed, plain) < 2
    assert torch.equal(sample(), plain), "the model that came in has changed"


@pytest.mark.parametrize("name", DO_NOTHING)
def test_does_nothing(name, net, sample):
    assert relative_error(sample(patched(DO_NOTHING, name, net.model)), sample()) < ROUNDING


@pytest.mark.parametrize("name", SPOIL)
def test_leads_away_from_what_the_net_says(name, net, ksampler, answer):
    right = relative_error(ksampler(steps=15), answer)
    assert relative_error(ksampler(patched(SPOIL, name, net.model), steps=15), answer) > 1.5 * right


def test_free_u_cannot(net, ksampler):
    with pytest.raises(KeyError, match="model_channels"):
        ksampler(core("comfy_extras.nodes_freelunch", "FreeU_V2", model=net.model, b1=1.3, b2=1.4, s1=0.9, s2=0.2))


@pytest.mark.parametrize(("name", "threshold"), [("EasyCacheNode", 0.3), ("LazyCacheNode", 0.2)])
def test_caches_save_predictions(name, threshold, net, sample):
    predictions = []

    def count(run, *args, **kwargs):
        predictions.append(1)
        return run(*args, **kwargs)

    def counted(model):
        model = model.clone()
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", count)
        return model

    plain, usual = sample(counted(net.model), steps=20), len(predictions)
    settings = {"reuse_threshold": threshold, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    cached = sample(counted(core("comfy_extras.nodes_easycache", name, model=net.model, **settings)), steps=20)
    assert len(predictions) - usual < 0.8 * usual
    assert 0 < relative_error(cached, plain) < 0.3


# Context windows

WINDOWS = {
    "context_length": 2, "context_overlap": 1, "context_schedule": "standard_static", "context_stride": 1,
    "closed_loop": False, "fuse_method": "pyramid", "dim": 2, "freenoise": False, "cond_retain_index_list": "0",
    "split_conds_to_windows": False, "latent_retain_index_list": "", "causal_window_fix": True,
}  # fmt: skip


def windows(model, **changes):
    settings = {**WINDOWS, **changes}
    return core("comfy_extras.nodes_context_windows", "ContextWindowsManualNode", model=model, **settings)


def windows_cut_the_face():
    import comfy.context_windows

    return "cond_retain_index_list" in inspect.signature(comfy.context_windows.IndexListContextHandler).parameters


@pytest.mark.skipif(not windows_cut_the_face(), reason="this ComfyUI's windows leave the face's latents whole")
def test_context_windows_see_the_face_by_their_retained_frame(net, sample):
    whole, seen = sample(frames=6), []

    def look(run, x, timestep, context, *args, **kwargs):
        seen.append((x.shape[2], x[0, 16:, 0].abs().sum().item() > 0))
        return run(x, timestep, context, *args, **kwargs)

    def watched(model):
        model = model.clone()
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", look)
        return model

    with_face = sample(watched(windows(net.model)), frames=6)
    # The first window has no frame before it, the others one more.
    assert {frames for frames, _ in seen} == {2, 3} and all(face for _, face in seen)
    seen.clear()
    without = sample(watched(windows(net.model, cond_retain_index_list="")), frames=6)
    assert any(face for _, face in seen) and not all(face for _, face in seen)
    assert relative_error(with_face, whole) > 1e-2 and relative_error(with_face, without) > 1e-3
    assert torch.equal(sample(windows(net.model), frames=2), sample(frames=2)), "no window, nothing to change"


@pytest.mark.skipif(windows_cut_the_face(), reason="this ComfyUI's windows cut the face's latents")
def test_context_windows_of_older_versions_are_refused(net, sample):
    with pytest.raises(ConsisIDError, match="of 64x48, 21 frames, .* 64x48, 5 frames .* Update ComfyUI"):
        sample(windows(net.model), frames=6)


# Samplers


def test_heun_is_worse_than_euler_with_half_the_predictions(ksampler, answer):
    """Its first step multiplies the change from one prediction to the next by sigma_1 / (2 sigma_2)."""
    euler, heun = (relative_error(ksampler(steps=15, sampler=name), answer) for name in ("euler", "heun"))
    assert heun > 2 * euler


# Conditioning


def test_prompts_are_scheduled_combined_and_averaged(net, conditioned, ksampler):
    plain, (positive, negative, latent) = ksampler(), conditioned()
    (other, _, _) = conditioned(prompt=net.other_prompt)

    def ranged(conditioning, start, end):
        return core("nodes", "ConditioningSetTimestepRange", conditioning=conditioning, start=start, end=end)

    results = [
        ksampler(conds=(conditioning, negative, latent))
        for conditioning in (
            ranged(positive, 0.0, 0.5) + ranged(other, 0.5, 1.0),
            core("nodes", "ConditioningCombine", conditioning_1=positive, conditioning_2=other),
            core("nodes", "ConditioningAverage", conditioning_to=positive, conditioning_from=other,
                 conditioning_to_strength=0.5),
        )
    ]  # fmt: skip
    only_other = ksampler(conds=(other, negative, latent))
    for result in results:
        assert relative_error(result, plain) > 1e-2 and relative_error(result, only_other) > 1e-2
    assert torch.equal(ksampler(conds=(ranged(positive, 0.0, 1.0), negative, latent)), plain)


def left_half():
    mask = torch.zeros(1, SIZE[0] * 8, SIZE[1] * 8)
    mask[:, :, : SIZE[1] * 4] = 1
    return mask


def test_masks_on_conditioning(conditioned, ksampler):
    plain, (positive, negative, latent) = ksampler(), conditioned()

    def masked(mask, area="default"):
        return core("nodes", "ConditioningSetMask", conditioning=positive, mask=mask, set_cond_area=area, strength=1.0)

    assert torch.equal(ksampler(conds=(masked(torch.ones_like(left_half())), negative, latent)), plain)
    assert relative_error(ksampler(conds=(masked(left_half()) + positive, negative, latent)), plain) < ROUNDING
    assert relative_error(ksampler(conds=(masked(left_half()), negative, latent)), plain) > 0.1
    with pytest.raises(ValueError):  # "mask bounds" is for pictures.
        ksampler(conds=(masked(left_half(), "mask bounds"), negative, latent))


def test_areas_of_videos_work_and_those_of_pictures_do_not(net, conditioned, ksampler):
    plain, (positive, negative, latent) = ksampler(), conditioned()
    (other, _, _) = conditioned(prompt=net.other_prompt)

    def video(width):
        place = {"width": width, "height": 1.0, "temporal": 1.0, "x": 0, "y": 0, "z": 0, "strength": 1.0}
        name = "ConditioningSetAreaPercentageVideo"
        return core("comfy_extras.nodes_video_model", name, conditioning=other, **place)

    only_other = ksampler(conds=(other, negative, latent))
    assert relative_error(ksampler(conds=(video(1.0), negative, latent)), only_other) < ROUNDING
    both = ksampler(conds=(video(0.5) + positive, negative, latent))
    assert 1e-2 < relative_error(both, plain) < relative_error(only_other, plain)

    # A picture's area has height and width; on a video they are taken for time and height.
    whole = core("nodes", "ConditioningSetArea", conditioning=positive, width=64, height=48, x=0, y=0, strength=1.0)
    narrow = core("nodes", "ConditioningSetArea", conditioning=positive, width=32, height=48, x=0, y=0, strength=1.0)
    assert relative_error(ksampler(conds=(whole, negative, latent)), plain) < ROUNDING
    lower_part = ksampler(conds=(narrow + positive, negative, latent))
    assert lower_part.isfinite().all()


# Latents


def test_noise_masks_keep_what_they_hide(net, sample):
    start, mask = net.randn(1, 16, 3, *SIZE), left_half()
    # In steps that divide 1000 nothing is left of the noise, so what is hidden comes back as it was.
    out = sample(latent={"samples": start, "noise_mask": mask[:, None]})
    assert (out - start)[..., SIZE[1] // 2 :].abs().max() < 1e-4
    assert (out - start)[..., : SIZE[1] // 2].abs().max() > 0.1


def test_differential_diffusion_takes_effect(net, sample):
    latent = {"samples": net.randn(1, 16, 3, *SIZE), "noise_mask": left_half()[:, None] * 0.5}
    model = core("comfy_extras.nodes_differential_diffusion", "DifferentialDiffusion", model=net.model)
    assert relative_error(sample(model, latent=latent), sample(latent=latent)) > 1e-2


def test_video_to_video_begins_with_the_latent(net, sample):
    start = net.randn(1, 16, 3, *SIZE)
    distances = [relative_error(sample(latent={"samples": start}, denoise=d), start) for d in (0.1, 0.5, 1.0)]
    assert distances == sorted(distances) and distances[0] < 0.6 * distances[2]


# Weights


def scaled(net, factor, left_out=()):
    """The same net with weights of so many parts, but for those left out."""
    model = load_transformer(net.path)
    with torch.no_grad():
        for name, parameter in model.model.diffusion_model.named_parameters():
            if name not in left_out:
                parameter.mul_(factor)
    return model


def test_merges_mix_weights(net, ksampler):
    smaller = scaled(net, 0.9)
    merging = "comfy_extras.nodes_model_merging"
    halfway = core(merging, "ModelMergeSimple", model1=net.model, model2=smaller, ratio=0.5)
    # ComfyUI patches no parameter of a module that has modules below it.
    expected = scaled(net, 0.95, left_out=["patch_embed.pos_embedding"])
    assert relative_error(ksampler(halfway), ksampler(expected)) < 1e-4
    assert relative_error(ksampler(halfway), ksampler()) > 1e-2
    added = core(merging, "ModelAdd", model1=net.model, model2=smaller)
    back = core(merging, "ModelSubtract", model1=added, model2=smaller, multiplier=1.0)
    assert relative_error(ksampler(back), ksampler()) < 1e-3

    # Its sliders know the blocks of SD; "input" is taken for every weight.
    blocks = [
        core(merging, "ModelMergeBlocks", model1=net.model, model2=smaller, input=0.5, middle=other, out=other)
        for other in (0.0, 1.0)
    ]
    assert all(relative_error(ksampler(model), ksampler(halfway)) < ROUNDING for model in blocks)


@pytest.fixture(scope="module")
def lora(net):
    name, width = "diffusion_model.transformer_blocks.0.attn1.to_q", 48
    return {f"{name}.lora_down.weight": net.randn(4, width), f"{name}.lora_up.weight": net.randn(width, 4)}


def test_hooks_apply_a_lora_by_prompt_and_step(net, lora, conditioned, ksampler):
    plain, (positive, negative, latent) = ksampler(), conditioned()
    merged = ksampler(comfy.sd.load_lora_for_models(net.model, None, lora, 1.0, 0)[0])
    assert relative_error(merged, plain) > 1e-2

    def hooked(hooks, *conditionings):
        return [comfy.hooks.set_hooks_for_conditioning(conditioning, hooks) for conditioning in conditionings]

    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    both = ksampler(conds=(*hooked(hooks, positive, negative), latent))
    assert relative_error(both, merged) < ROUNDING
    assert relative_error(ksampler(conds=(*hooked(hooks, positive), negative, latent)), merged) > 1e-2

    keyframes = None
    for strength, start in ((1.0, 0.0), (0.0, 0.5)):
        keyframes = core("comfy_extras.nodes_hooks", "CreateHookKeyframe", strength_mult=strength, start_percent=start,
                         prev_hook_kf=keyframes)  # fmt: skip
    timed = core("comfy_extras.nodes_hooks", "SetHookKeyframes", hooks=hooks.clone(), hook_kf=keyframes)
    partly = ksampler(conds=(*hooked(timed, positive, negative), latent))
    assert relative_error(partly, merged) > 1e-2 and relative_error(partly, plain) > 1e-2
    assert relative_error(ksampler(), plain) < ROUNDING, "hooks have been left on the model"


def test_saved_clip_and_vae_load_again(models_dir, run_node, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    picture = torch.rand(5, 16, 24, 3, generator=torch.Generator().manual_seed(1))

    def encoded(clip):
        return clip.encode_from_tokens(clip.tokenize("A person smiles."))

    for loader, name, saver, kind, encode in (
        ("ConsisIDVAELoader", "vae_name", "VAESave", "vae", lambda vae: vae.encode(picture)),
        ("ConsisIDTextEncoderLoader", "text_encoder_name", "CLIPSave", "text_encoders", encoded),
    ):
        file = {"vae": "diffusion_pytorch_model.safetensors", "text_encoders": "text_encoder"}[kind]
        (original,) = run_node(loader, **{name: f"consisid_demo/{file}"})
        saver = getattr(importlib.import_module("comfy_extras.nodes_model_merging"), saver)()
        getattr(saver, saver.FUNCTION)(original, f"{kind}/saved")
        (saved,) = (tmp_path / kind).glob("*.safetensors")
        (models_dir / kind / saved.name).symlink_to(saved)
        (again,) = run_node(loader, **{name: saved.name})
        with torch.inference_mode():
            torch.testing.assert_close(encode(again), encode(original), rtol=0, atol=1e-6)


def test_the_vae_of_comfyui_is_not_that_of_diffusers():
    vae = pytest.importorskip("comfy.ldm.cogvideo.vae", reason="this ComfyUI has no CogVideoX VAE")
    sizes = {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1}
    torch.manual_seed(0)
    reference = AutoencoderKLCogVideoX(
        latent_channels=16, norm_num_groups=4, sample_height=16, sample_width=24,
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4, **sizes,
    ).eval()  # fmt: skip
    core_vae = vae.AutoencoderKLCogVideoX(groups=4, **sizes).eval()
    core_vae.load_state_dict(reference.state_dict())

    def encode_error(frames):
        pictures = torch.rand(1, 3, frames, 16, 24) * 2 - 1
        return relative_error(core_vae.encode(pictures), reference.encode(pictures).latent_dist.mode())

    def decode_error(frames):
        latents = torch.randn(1, 16, frames, 2, 3)
        return relative_error(core_vae.decode(latents), reference.decode(latents).sample)

    with torch.inference_mode():
        assert max(encode_error(1), encode_error(5), decode_error(1)) < ROUNDING
        assert min(encode_error(9), encode_error(17), decode_error(3)) > 0.05


def test_torch_compile_changes_nothing(net, ksampler):
    def attention(_, *args, **kwargs):
        return attention_pytorch(*args, **kwargs)

    # PyTorch's attention, as on a GPU: what ComfyUI takes on a CPU cannot be compiled in one graph.
    model = net.model.clone()
    model.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = attention
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled = core("comfy_extras.nodes_torch_compile", "TorchCompileModel", model=model, backend="eager")
    assert relative_error(ksampler(compiled, steps=1), ksampler(model, steps=1)) < ROUNDING
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
