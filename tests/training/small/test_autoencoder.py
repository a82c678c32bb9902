import pytest
import torch
from consisid_pack.consisid_core.model.vae import CogVideoXVAE
from consisid_pack.consisid_core.training.diffusion import LATENT_SCALE
from consisid_pack.consisid_core.training.small.autoencoder import PictureTask, VideoTask, by_name, psnr
from consisid_pack.consisid_core.training.small.pool import pixels


@pytest.fixture
def pool(pool):
    """One with two clips to look at."""
    del pool.held_clips[2:]
    return pool


def test_pictures_then_videos_then_the_class(sizes, pool, code):
    flat = PictureTask(sizes, pool, code, "cpu", batch=2)
    flat.step(0.3)

    task = VideoTask(sizes, flat.state(), pool, code, "cpu", batch=1)
    videos = pixels(pool.clip[pool.held_clips[:2]]).transpose(1, 2)
    vae = CogVideoXVAE(sizes.vae_widths, 1)
    with torch.no_grad():
        vae.load_state_dict(by_name(task.state()["averaged"], vae.state_dict()))
        still = videos[:, :, :1].expand(-1, -1, 17, -1, -1)
        ours = flat.averaged.twin().encode(still[:, :, 0]) * LATENT_SCALE
        # Inflated, and not yet trained: what the picture stage gives for every frame.
        torch.testing.assert_close(vae.encode(still)[:, :, 2] * LATENT_SCALE, ours, atol=1e-4, rtol=1e-3)
    task.step(0.0)
    assert task.updates == 1 and "encoder and decoder" in task.report()


def test_decoding_the_code_gets_better(sizes, pool, code):
    task = PictureTask(sizes, pool, code, "cpu", batch=4)
    task.updates = 60  # At the full rate.

    def figure():
        return float(task.report().split("decoder on it ")[1].split(" dB")[0])

    before = figure()
    for _ in range(12):
        task.step(0.0)
    assert figure() > before + 0.5


def test_psnr():
    pictures = torch.zeros(2, 3, 4, 4)
    assert abs(psnr(pictures + 0.2, pictures) - 20) < 1e-3  # A tenth of the range of 2.
