"""Eight clips by heart: from a manifest, by the commands of `docs/training.md`, to videos through ComfyUI's loader.

The VAE is random, so what it decodes is no picture of the clips. It is the same function on both sides: the sampled
video is compared with the VAE's own decoding of the clip, pixel by pixel.
"""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.comfyui.transformer import load_facial_extractor, load_transformer
from consisid_pack.consisid_core.comfyui.vae import load_vae
from consisid_pack.consisid_core.training import examples
from consisid_pack.consisid_core.training.__main__ import main
from consisid_pack.consisid_core.training.cache import ClipCache
from consisid_pack.consisid_core.training.conditions import Examples, stacked
from consisid_pack.consisid_core.training.config import load_config
from consisid_pack.consisid_core.training.distributed import Ranks
from consisid_pack.consisid_core.training.loop import Trainer
from consisid_pack.consisid_core.training.net import build_net
from consisid_pack.consisid_core.training.stages import placed_stages
from consisid_pack.consisid_core.types import GlobalID, LocalID
from helpers.training_nets import options, tiny_paths
from helpers.training_runs import FACE
from helpers.training_videos import SIZE, write_manifest
from helpers.videos import write_video
from safetensors import safe_open
from safetensors.torch import save_file

EXPORTED = "transformer/diffusion_pytorch_model.safetensors"
CAPTIONS = ("a red wall", "the blue sea", "green hills", "night", "snow", "a desert", "flowers", "the moon")
GEOMETRY = "--width 48 --height 32 --frames 5 --stride 1 --references 1 --variants 1 --text-length 12".split()
CONFIG = f"""
preset = "small"
[data]
cache = "cache"
workers = 0
[batch]
size = 8
micro = 8
[net]
keypoints = false
num_layers = 1
num_heads = 8
head_dim = 16
ff_dim = 512
patch_size = 1
text_embed_dim = 64
max_text_length = 12
time_embed_dim = 32
sample_width = 6
sample_height = 4
sample_frames = 2
cross_attn_interval = 1
cross_attn_heads = 2
cross_attn_head_dim = 16
{FACE}[conditions]  # Nothing is left to chance but noise and timesteps.
cross_face = 0
reference_noise = false
image_dropout = 0
text_dropout = 0
identity_dropout = 0
token_dropout = 0
[loss]
mask_probability = 0
[optimizer]
warmup = 10
weight_decay = 0
ema_decay = 0
[stages.coarse]
steps = 320
learning_rate = 8e-3
[stages.fine]  # Short, because the extractor takes most of a step's time here.
steps = 40
learning_rate = 1e-3
"""


@pytest.fixture(scope="module")
def trained(models_dir, tmp_path_factory):
    """Folder with config, cache, VAE and what the commands made of eight videos."""
    folder = tmp_path_factory.mktemp("eight")
    for number in range(len(CAPTIONS)):
        write_video(folder / f"{number}.mp4", _pictures(number))
    manifest = write_manifest(folder, *({"video": f"{n}.mp4", "caption": text} for n, text in enumerate(CAPTIONS)))
    nets = {**tiny_paths(models_dir), "vae": folder / "vae.safetensors"}
    _write_vae(tiny_paths(models_dir)["vae"], nets["vae"])
    (folder / "config.toml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "LOOKS", 2)  # Looking for faces is most of the work.
        prepare = ["prepare", manifest, folder / "cache", *GEOMETRY, *options(nets), "--device=cpu", "--provider=CPU"]
        assert main([str(argument) for argument in prepare]) == 0
    assert main(["run", str(folder / "config.toml"), str(folder / "run"), "--device", "cpu"]) == 0
    assert main(["export", str(folder / "run"), str(folder / "transformer"), "--dtype", "fp32"]) == 0
    return folder


def _pictures(number):
    """Five frames of a face that moves: other places in each video, every second one mirrored."""
    pictures = []
    for i in range(5):
        x, y = 40 * np.sin(2 * number + i / 2) - 28, 25 * np.cos(number + i / 3) + 10
        matrix = np.float64([[1, 0, x], [0, 1, y]])
        picture = cv2.warpAffine(skimage.data.astronaut(), matrix, SIZE[::-1], borderMode=cv2.BORDER_REPLICATE)
        pictures.append(cv2.flip(picture, 1) if number % 2 else picture)
    return pictures


def _write_vae(source: Path, target: Path):
    """The tiny VAE with latents of about unit size and hardly any spread, as those of a trained one are."""
    with safe_open(source, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    weight, bias = (tensors[f"encoder.conv_out.conv.{name}"] for name in ("weight", "bias"))
    weight[:16] *= 2
    bias[:16] *= 2
    weight[16:] = 0
    bias[16:] = -20  # The logarithm of the variance.
    save_file(tensors, target, metadata)


def test_the_loss_falls_below_a_tenth(trained):
    """On the same noise before and after, at timesteps spread over all."""
    config = load_config(trained / "config.toml")
    export = dataclasses.replace(config.weights, transformer=str(trained / EXPORTED))
    begun, ended = (
        _loss(config, build_net(given)) for given in (config, dataclasses.replace(config, weights=export, net={}))
    )
    assert ended < 0.1 * begun, (begun, ended)


@torch.no_grad()
def _loss(config, net):
    trainer = Trainer(config, placed_stages(config.stages)[-1], net, Ranks(0, 1, torch.device("cpu")))
    numbered = Examples(ClipCache(config.data.cache), net.config, trainer.placed.stage, config.conditions, 0, seed=7)
    batch = stacked([numbered[number] for number in range(32)])
    batch.timestep = torch.arange(32) * 31 + 15
    return trainer.losses(batch).mean().item()


def test_sampled_videos_are_the_clips(trained, run_node):
    model, vae = load_transformer(trained / EXPORTED), load_vae(trained / "vae.safetensors")
    clips = [*ClipCache(trained / "cache")]
    assert [clip.caption for clip in clips] == [*CAPTIONS]
    with torch.inference_mode():
        expected = torch.cat([vae.decode(clip.latent_mean[None].float()) for clip in clips])
        sampled = torch.cat([vae.decode(_sampled(model, clip, run_node)) for clip in clips])
    ratios = -10 * (sampled[:, None] - expected[None]).square().mean((2, 3, 4, 5)).log10()
    assert ratios.diagonal().min() >= 25, ratios
    # The clips are not so much alike that the one would pass for the other.
    assert ratios.fill_diagonal_(0).max() < 20, ratios


def _sampled(model, clip, run_node):
    """Latents of ComfyUI's ConsisID Sampler, told what the clip's training was told."""
    (reference,) = clip.inside
    image = torch.zeros(1, *clip.latent_mean.shape)
    image[0, :, 0] = reference.latent_mean[0]
    extractor = load_facial_extractor(model)[0].model
    identity = torch.cat((reference.embedding, reference.eva_embedding))[None].float()
    tokens = extractor(identity, [state[None].float() for state in reference.hidden_states])
    text = [[clip.text[None].float(), {}]]
    positive, negative, latent = run_node(
        "ConsisIDConditioning", positive=text, negative=text, global_id=GlobalID(image), local_id=LocalID(tokens)
    )
    (out,) = run_node(
        "ConsisIDSampler", model=model, positive=positive, negative=negative, latent_image=latent, seed=3, steps=20,
        cfg=1.0,
    )  # fmt: skip
    return out["samples"]
