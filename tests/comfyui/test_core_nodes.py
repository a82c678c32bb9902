"""Nodes of ComfyUI that copy, split, train or read our MODEL, VAE and CLIP."""

import json

import comfy.model_management
import comfy.model_patcher
import folder_paths
import gguf
import pytest
import torch
from comfy_extras import nodes_lumina2, nodes_torch_compile, nodes_train
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.types import GlobalID, LocalID
from helpers.oracle import relative_error
from helpers.prediction import predict
from helpers.weight_forms import LINEAR, scaled, write_gguf
from safetensors.torch import save_file

import nodes

SAME = 1e-6
"""Predictions of the same weights, mapped from a file or copied."""
SEED, STEPS = 4, 2
CPU, OTHER_CPU = torch.device("cpu"), torch.device("cpu", 0)
"""Two devices to ComfyUI, of which each gets its own copy of a model."""

needs_copies = pytest.mark.skipif(
    not hasattr(comfy.model_patcher.ModelPatcher, "deepclone_multigpu"), reason="this ComfyUI makes no deep copies"
)


@pytest.fixture
def load(run_node):
    def run(name="consisid_demo/transformer", weight_dtype="default"):
        (model,) = run_node("ConsisIDModelLoader", model_name=name, weight_dtype=weight_dtype)
        return model

    return run


@pytest.fixture(scope="module")
def conditioned(run_node):
    """positive, negative and latent of a 5-frame video with an identity."""
    generator = torch.Generator().manual_seed(3)
    texts = (torch.randn(1, 226, 64, generator=generator) for _ in range(2))
    image = torch.zeros(1, 16, 2, 20, 30)
    image[:, :, 0] = torch.randn(1, 16, 20, 30, generator=generator)
    return run_node(
        "ConsisIDConditioning", positive=[[next(texts), {}]], negative=[[next(texts), {}]], global_id=GlobalID(image),
        local_id=LocalID(torch.randn(1, 32, 64, generator=generator)),
    )  # fmt: skip


def sample(model, conditioned, steps=STEPS):
    positive, negative, latent = conditioned
    with torch.inference_mode():
        (out,) = nodes.common_ksampler(model, SEED, steps, 6.0, "euler", "simple", positive, negative, latent)
    return out["samples"]


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda **_: [CPU, OTHER_CPU])


# What nodes read of a video net


def test_renorm_cfg(load, conditioned):
    """With no limit to the norm it is plain guidance, with one the guided prediction is no longer than the prompt's."""
    model = load()
    unlimited, limited = (nodes_lumina2.RenormCFG.execute(model, 1e9, limit).args[0] for limit in (0.0, 1.0))
    plain = sample(model, conditioned)
    assert relative_error(sample(unlimited, conditioned), plain) <= 1e-5
    assert relative_error(sample(limited, conditioned), plain) > 1e-2


def test_the_net_answers_as_that_of_cogvideox():
    cogvideo = pytest.importorskip("comfy.ldm.cogvideo.model")
    from consisid_pack.consisid_core.comfyui.transformer import ComfyConsisIDTransformer
    from consisid_pack.consisid_core.model.config import TransformerConfig

    config = TransformerConfig(num_layers=1, num_heads=3)
    with torch.device("meta"):
        ours = ComfyConsisIDTransformer(config, torch.float32, "meta", torch.nn)
        theirs = cogvideo.CogVideoXTransformer3DModel(
            num_attention_heads=3, attention_head_dim=64, in_channels=32, out_channels=16, num_layers=1,
            dtype=torch.float32, device="meta", operations=torch.nn,
        )  # fmt: skip
    names = ("in_channels", "out_channels", "patch_size", "patch_size_t", "dim", "num_attention_heads",
             "attention_head_dim", "dtype")  # fmt: skip
    assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}


# Copies that are loaded once more


@pytest.fixture
def file_of(models_dir, tmp_path):
    """Path of a new transformer file, and its name in the loader."""

    def place(name):
        path = models_dir / "diffusion_models" / tmp_path.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, f"{tmp_path.name}/{name}"

    return place


@pytest.fixture
def release(models_dir):
    """State dict and config of the demo transformer."""
    checkpoint = read_checkpoint(models_dir / "diffusion_models/consisid_demo/transformer")
    return checkpoint.tensors, checkpoint.config


def shards(load, **_):
    return load()


def cast_to_fp8(load, **_):
    return load(weight_dtype="fp8_e4m3fn")


def scaled_fp8(load, release, file_of, **_):
    stored, _, metadata = scaled(release, torch.float8_e4m3fn, "comfy_quant")
    path, name = file_of("scaled.safetensors")
    save_file(stored, path, metadata)
    return load(name)


def packed(load, release, file_of, **_):
    path, name = file_of("diffusion_pytorch_model.gguf")
    path.with_name("config.json").write_text(json.dumps(release[1]))
    write_gguf(path, release[0], {name: gguf.GGMLQuantizationType.Q8_0 for name in release[0] if name.endswith(LINEAR)})
    return load(name, "bf16")


def with_lora(load, release, models_dir, run_node, **_):
    module = "transformer_blocks.1.attn1.to_v"
    width = release[0][f"{module}.weight"].shape[0]
    generator = torch.Generator().manual_seed(5)
    (models_dir / "loras").mkdir(exist_ok=True)
    folder_paths.add_model_folder_path("loras", str(models_dir / "loras"))
    save_file(
        {
            f"diffusion_model.{module}.lora_A.weight": torch.randn(4, width, generator=generator) / width**0.5,
            f"diffusion_model.{module}.lora_B.weight": torch.randn(width, 4, generator=generator) / 2,
        },
        models_dir / "loras" / "copied.safetensors",
    )
    (model,) = run_node("ConsisIDLoraLoader", model=load(), lora_name="copied.safetensors")
    return model


@pytest.fixture(params=[shards, cast_to_fp8, scaled_fp8, packed, with_lora], ids=lambda form: form.__name__)
def model(request, load, release, file_of, models_dir, run_node):
    return request.param(load=load, release=release, file_of=file_of, models_dir=models_dir, run_node=run_node)


def copy_by_clone(patcher):
    return patcher.clone(force_deepcopy=True)


def copy_to_device(patcher):
    return patcher.deepclone_multigpu(new_load_device=OTHER_CPU)


for_each_copy = pytest.mark.parametrize("make", [copy_by_clone, copy_to_device])


@torch.inference_mode()  # As nodes run.
def copied(make, patcher):
    """A copy that has its own weights, in the same types and with the same patches."""
    copy = make(patcher)
    ours, theirs = (dict(p.model.named_parameters()) for p in (patcher, copy))
    assert ours.keys() == theirs.keys() and not any(theirs[name] is ours[name] for name in ours)
    assert {name: weight.dtype for name, weight in theirs.items()} == {n: w.dtype for n, w in ours.items()}
    assert copy.patches.keys() == patcher.patches.keys()
    return copy


@needs_copies
@for_each_copy
def test_a_deep_copy_of_the_model_predicts_the_same(make, model, inputs):
    expected = predict(model, inputs)
    assert relative_error(predict(copied(make, model), inputs), expected) <= SAME


@needs_copies
@for_each_copy
def test_a_deep_copy_of_the_vae_decodes_the_same(make, conditioned, run_node):
    (vae,) = run_node("ConsisIDVAELoader", vae_name="consisid_demo/diffusion_pytorch_model.safetensors")
    latents = conditioned[0][0][1]["concat_latent_image"]
    with torch.inference_mode():
        expected = vae.decode(latents)
        vae.patcher = copied(make, vae.patcher)
        vae.first_stage_model = vae.patcher.model  # As Select VAE Device does.
        assert relative_error(vae.decode(latents), expected) <= SAME


@needs_copies
@for_each_copy
def test_a_deep_copy_of_the_text_encoder_encodes_the_same(make, run_node):
    (clip,) = run_node("ConsisIDTextEncoderLoader", text_encoder_name="consisid_demo/text_encoder")
    with torch.inference_mode():
        (((expected, _),),) = nodes.CLIPTextEncode().encode(clip, "a red hat")
        clip.patcher = copied(make, clip.patcher)
        clip.cond_stage_model = clip.patcher.model
        (((encoded, _),),) = nodes.CLIPTextEncode().encode(clip, "a red hat")
    assert relative_error(encoded, expected) <= SAME
    assert clip.cond_stage_model.weights_path


@needs_copies
def test_guidance_split_over_two_devices_equals_one(load, conditioned, two_devices):
    from comfy_extras import nodes_multigpu

    model = load()
    expected = sample(model, conditioned)
    (split,) = nodes_multigpu.MultiGPUCFGSplitNode.execute(model, max_gpus=2).args
    (copy,) = split.get_additional_models_with_key("multigpu")
    assert (split.load_device, copy.load_device) == (CPU, OTHER_CPU)
    batches = {CPU: [], OTHER_CPU: []}
    for patcher in (split, copy):
        patcher.model.diffusion_model.register_forward_pre_hook(
            lambda net, args, device=patcher.load_device: batches[device].append(len(args[0]))
        )
    # One device evaluates both prompts in one batch, which adds up in another order.
    assert relative_error(sample(split, conditioned), expected) <= 5e-5
    assert batches == {CPU: [1] * STEPS, OTHER_CPU: [1] * STEPS}, "one prompt on each"


@needs_copies
def test_our_sampler_splits_its_guidance_over_two_devices(load, conditioned, run_node, two_devices):
    """As the template consisid_two_gpus is wired."""
    from comfy_extras import nodes_multigpu

    positive, negative, latent = conditioned

    def sampled(model):
        (out,) = run_node(
            "ConsisIDSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=SEED,
            steps=STEPS, cfg=6.0, sampler="dpm", guidance="constant", denoise=1.0,
        )  # fmt: skip
        return out["samples"]

    model = load()
    (split,) = nodes_multigpu.MultiGPUCFGSplitNode.execute(model, max_gpus=2).args
    on = []
    for patcher in (split, *split.get_additional_models_with_key("multigpu")):
        patcher.model.diffusion_model.register_forward_pre_hook(
            lambda net, args, device=patcher.load_device: on.append((device, len(args[0])))
        )
    assert relative_error(sampled(split), sampled(load())) <= 5e-5
    assert sorted(on, key=str) == [(CPU, 1)] * STEPS + [(OTHER_CPU, 1)] * STEPS


@needs_copies
def test_a_step_cache_under_guidance_split_over_two_devices(load, conditioned, run_node, models_dir, two_devices):
    """Both devices skip the same steps, each with its prompt's residual."""
    from comfy_extras import nodes_multigpu

    path = models_dir / "diffusion_models/consisid_demo/transformer/step_cache.json"
    path.write_text('{"coefficients": [1, 0], "lowest": 1e-6, "highest": 1000}', encoding="utf-8")
    try:
        (model,) = run_node("ConsisIDStepCache", model=load(), threshold=1.0)
    finally:
        path.unlink()
    expected = sample(model, conditioned, steps=5)
    assert relative_error(expected, sample(load(), conditioned, steps=5)) > 1e-3
    (split,) = nodes_multigpu.MultiGPUCFGSplitNode.execute(model, max_gpus=2).args
    blocks = []
    for patcher in (split, *split.get_additional_models_with_key("multigpu")):
        patcher.model.diffusion_model.transformer_blocks[0].register_forward_pre_hook(
            lambda net, args, device=patcher.load_device: blocks.append(device)
        )
    assert relative_error(sample(split, conditioned, steps=5), expected) <= 5e-5
    assert 2 <= blocks.count(CPU) == blocks.count(OTHER_CPU) < 5


@needs_copies
def test_select_device(load, run_node, two_devices, caplog):
    """On a CPU these nodes copy nothing; that they find what they copy with is seen here, the copies above."""
    from comfy_extras import nodes_multigpu

    (moved,) = nodes_multigpu.SelectModelDeviceNode.execute(load(), "gpu:1").args
    assert moved.load_device == OTHER_CPU
    again = nodes_multigpu._retarget_patcher(moved, CPU, CPU)
    assert again.load_device == CPU and again.model is not moved.model
    assert "passing through unchanged" not in caplog.text


class Streaming(comfy.model_patcher.ModelPatcher):
    """To clone, a patcher of dynamic VRAM, which itself needs a GPU."""

    def is_dynamic(self):
        return True


@needs_copies
def test_torch_compile_gets_a_plain_patcher_where_weights_are_streamed(load, run_node, monkeypatch):
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Streaming)
    model = load(weight_dtype="bf16")
    assert model.is_dynamic()
    (compiled,) = nodes_torch_compile.TorchCompileModel.execute(model, "inductor").args
    assert type(compiled) is comfy.model_patcher.ModelPatcher and compiled.model is not model.model
    assert compiled.model.get_dtype() == torch.bfloat16

    (clip,) = run_node("ConsisIDTextEncoderLoader", text_encoder_name="consisid_demo/text_encoder")
    assert clip.patcher.is_dynamic()
    assert type(clip.clone(disable_dynamic=True).patcher) is comfy.model_patcher.ModelPatcher


# Training


def train_lora(model, conditioned, **given):
    """(LoRA, losses) of core's node."""
    positive, _, latent = conditioned
    generator = torch.manual_seed(1)
    latents = [{"samples": torch.randn(latent["samples"].shape, generator=generator)} for _ in range(2)]
    given = {
        "model": model, "positive": positive, "steps": 2, "rank": 2,
        "learning_rate": 0.01, "training_dtype": "fp32", "lora_dtype": "fp32", "existing_lora": "[None]", **given,
    }  # fmt: skip
    inputs = nodes_train.TrainLoraNode.define_schema().inputs
    values = {i.id: [given.get(i.id, getattr(i, "default", None))] for i in inputs} | {"latents": latents}
    with torch.inference_mode():
        lora, losses, _ = nodes_train.TrainLoraNode.execute(**values).args[-3:]
    return lora, losses["loss"]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_train_lora(checkpointing, load, conditioned, inputs):
    model = load()
    expected = predict(model, inputs)
    lora, losses = train_lora(model, conditioned, gradient_checkpointing=checkpointing)
    assert len(losses) == 2 and all(0 < loss < 100 for loss in losses)
    assert relative_error(predict(model, inputs), expected) <= SAME
    (trained,) = nodes_train.LoraModelLoader.execute(model, lora, 1.0).args
    assert {"transformer_blocks.0.attn1.to_q", "perceiver_cross_attention.0.to_q"} <= {
        name.removeprefix("diffusion_model.").rpartition(".weight")[0] for name in trained.patches
    }
    assert relative_error(predict(trained, inputs), expected) > 1e-3
