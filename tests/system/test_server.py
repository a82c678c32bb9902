"""The demo graph through a real server's HTTP API, against diffusers' ConsisIDPipeline with the same weights."""

import json

import diffusers.pipelines.consisid.pipeline_consisid as pipeline_module
import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.comfyui.extractors import fit_picture
from consisid_pack.consisid_core.dev.tiny import VAE as TINY_VAE
from consisid_pack.consisid_core.face.eva_clip import preprocess
from consisid_pack.consisid_core.model.schedule import guidance_scales
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, ConsisIDPipeline, ConsisIDTransformer3DModel
from helpers import ROOT
from helpers.oracle import SCHEDULER
from helpers.served import decode_one_frame, demo
from PIL import Image
from safetensors.torch import load_file
from skimage import data
from transformers import T5EncoderModel, T5TokenizerFast

SEED, STEPS = 11, 10


def demo_graph(**sampler):
    graph = json.loads((ROOT / "tests" / "workflows" / "consisid_demo.json").read_text())
    demo.find_node(graph, "ConsisIDSampler")["inputs"].update(seed=SEED, **sampler)
    return graph


def prompts(graph):
    return [demo.find_node(graph, "CLIPTextEncode", title=t)["inputs"]["text"] for t in ("Prompt", "Negative prompt")]


@pytest.fixture(scope="module")
def pipeline(models_dir):
    """ConsisIDPipeline on the tiny weights, with the mean of the image latents instead of a sample."""
    import comfy.text_encoders.sd3_clip

    original = pipeline_module.retrieve_latents
    pipeline_module.retrieve_latents = lambda output, generator: output.latent_dist.mode()
    name = "consisid_demo"
    vae = AutoencoderKLCogVideoX(**{key: value for key, value in TINY_VAE.items() if not key.startswith("_")})
    vae.load_state_dict(load_file(models_dir / f"vae/{name}/diffusion_pytorch_model.safetensors"))
    tokenizer_folder = comfy.text_encoders.sd3_clip.__file__.replace("sd3_clip.py", "t5_tokenizer")
    yield ConsisIDPipeline(
        tokenizer=T5TokenizerFast.from_pretrained(tokenizer_folder),
        text_encoder=T5EncoderModel.from_pretrained(
            models_dir / f"text_encoders/{name}/text_encoder", dtype=torch.float32
        ).eval(),
        vae=vae.eval(),
        transformer=ConsisIDTransformer3DModel.from_pretrained(
            models_dir / f"diffusion_models/{name}/transformer"
        ).eval(),
        scheduler=CogVideoXDDIMScheduler(**SCHEDULER),
    )
    pipeline_module.retrieve_latents = original


@pytest.fixture(scope="module")
def face(run_node):
    """The astronaut's face, and what the reference's pipeline takes of it."""
    name = "consisid_demo"
    (models,) = run_node(
        "ConsisIDFaceModelsLoader", insightface_pack=name, face_parsing=f"{name}/parsing_bisenet.pth",
        eva_clip=f"{name}/EVA02_CLIP_L_336_psz14_s6B.pt",
    )  # fmt: skip
    image = torch.from_numpy(data.astronaut()).float().div(255)[None]
    face, face_image, _ = run_node("ConsisIDFaceAnalyzer", face_models=models, image=image)
    eva = models.eva.model
    with torch.inference_mode():
        embedding, hidden = eva(preprocess(face.gray_image.movedim(-1, 1), eva.image_size))
    picture = Image.fromarray((face_image[0].numpy() * 255).astype(np.uint8))
    return picture, torch.cat([face.embedding, embedding], dim=-1), hidden


def test_frames_equal_consisid_pipeline(served, pipeline, face, tmp_path):
    graph = demo_graph(sampler="ddim", steps=STEPS)
    frames, video = served.frames(graph)

    picture, id_cond, hidden = face
    prompt, negative = prompts(graph)
    noise = torch.randn(1, 16, 5, 20, 30, generator=torch.manual_seed(SEED)).transpose(1, 2)
    expected = pipeline(
        image=picture, prompt=prompt, negative_prompt=negative, height=160, width=240, num_frames=17,
        num_inference_steps=STEPS, guidance_scale=6.0, latents=noise, id_cond=id_cond, id_vit_hidden=hidden,
        output_type="np",
    ).frames[0]  # fmt: skip
    assert frames.shape == expected.shape == (17, 160, 240, 3)
    assert expected.std() > 0.05 and np.abs(np.diff(expected, axis=0)).mean() > 0.005, "the video must have content"
    difference = np.abs(frames.astype(float) - expected * 255)
    assert difference.max() <= 2, (difference.max(), difference.mean())

    file = demo.save_without_overwriting(tmp_path, video)
    assert demo.describe_video(file).startswith("17 frames of 240 x 160 at 8 fps")


def test_image_for_the_vae_is_resized_as_in_the_pipeline(pipeline, face):
    picture = face[0]
    expected = pipeline.video_processor.preprocess(picture, height=160, width=240)[0].permute(1, 2, 0)
    ours = torch.from_numpy(fit_picture(np.array(picture), 240, 160, "stretch")).float().div(255) * 2 - 1
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_legacy_guidance_is_that_of_the_pipeline(pipeline, face):
    picture, id_cond, hidden = face
    scales = []

    def record(pipe, step, timestep, tensors):
        scales.append(pipe.guidance_scale)
        return tensors

    pipeline(
        image=picture, prompt="", height=160, width=240, num_frames=17, num_inference_steps=7, guidance_scale=6.0,
        use_dynamic_cfg=True, id_cond=id_cond, id_vit_hidden=hidden, output_type="latent",
        callback_on_step_end=record,
    )  # fmt: skip
    assert scales == pytest.approx(guidance_scales("dynamic_legacy", 6.0, 7))


def test_the_default_sampler_runs(served):
    frames, _ = served.frames(decode_one_frame(demo_graph(steps=2)))
    assert frames.std() > 5
