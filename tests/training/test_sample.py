"""The sampler without ComfyUI against the reference's loop, and what the VAE makes of its latents."""

import torch
from consisid_pack.consisid_core.checkpoint.net_config import infer_vae_config
from consisid_pack.consisid_core.model.vae import CogVideoXVAE
from consisid_pack.consisid_core.training import sample as module
from consisid_pack.consisid_core.training.sample import Sampling, decode, sample_latents
from helpers.oracle import build_ours, build_reference, build_reference_vae, reference_loop, relative_error

SHAPE = (16, 3, 6, 8)


def test_sampling_equals_the_reference(monkeypatch):
    reference = build_reference(
        num_attention_heads=3, attention_head_dim=16, num_layers=4, in_channels=32, out_channels=16,
        sample_height=6, sample_width=8, sample_frames=9,
    )  # fmt: skip
    ours = build_ours(reference)
    generator = torch.Generator().manual_seed(3)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    text, empty, image = randn(11, 16), randn(11, 16), randn(*SHAPE)
    id_cond, hidden = randn(1, 20), [randn(1, 9, 16) for _ in range(5)]
    noises = {5: randn(1, *SHAPE), 6: randn(1, *SHAPE)}
    monkeypatch.setattr(module, "seeded_noise", lambda seed, like: lambda: noises[seed])
    with torch.no_grad():
        tokens = ours.local_facial_extractor(id_cond, hidden)

    def predict(latents, timestep, text):
        return ours(latents, timestep, text, tokens)

    for steps, guidance in ((1, 6.0), (7, 6.0), (20, 6.0), (10, 1.0)):
        seen = []
        actual = sample_latents(predict, text, empty, image, Sampling(steps, guidance, 5), lambda: seen.append(1))  # noqa: B023
        expected = reference_loop(
            reference, noises[5].transpose(1, 2), image.transpose(0, 1)[None], text[None], empty[None], steps,
            cfg=guidance, id_cond=id_cond, id_vit_hidden=hidden, dpm_noise=lambda: noises[6].transpose(1, 2),
        )[0].transpose(0, 1)  # fmt: skip
        assert len(seen) == steps
        assert relative_error(actual, expected) <= 1e-4, (steps, guidance)


def test_the_same_seed_gives_the_same_video():
    def predict(latents, timestep, text):
        return latents[:, :16] * 0.5

    image, text = torch.zeros(SHAPE), torch.zeros(2, 4)
    one, again, other = (sample_latents(predict, text, text, image, Sampling(4, 1.0, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_pixels_are_those_of_the_reference(models_dir):
    reference = build_reference_vae(models_dir)
    state_dict = reference.state_dict()
    vae = CogVideoXVAE(**infer_vae_config({name: tensor.shape for name, tensor in state_dict.items()}))
    vae.load_state_dict(state_dict)
    latents = torch.randn(16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    frames = decode(vae, latents)
    with torch.inference_mode():
        expected = reference.decode(latents[None] / 0.7).sample[0].clamp(-1, 1)
    assert frames.shape == (9, 32, 48, 3) and frames.dtype == torch.uint8
    difference = frames.permute(3, 0, 1, 2).float() / 127.5 - 1 - expected
    assert difference.abs().max() <= 1 / 127.5
