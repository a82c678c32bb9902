"""The factors of the latent preview, fitted by scripts/fit_latent_rgb.py, against diffusers and NumPy."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.comfyui.transformer import ConsisIDLatentFormat
from consisid_pack.consisid_core.dev.tiny import VAE as TINY_VAE
from diffusers import AutoencoderKLCogVideoX
from helpers import ROOT
from PIL import Image
from safetensors.torch import load_file
from skimage import data

SCRIPT = ROOT / "scripts" / "fit_latent_rgb.py"
VAE_FILE = "vae/consisid_demo/diffusion_pytorch_model.safetensors"

sys.path.append(str(SCRIPT.parent))
import fit_latent_rgb  # noqa: E402


@pytest.fixture(scope="module")
def independent_samples(models_dir):
    """Latents and mean colours of two pictures, by diffusers and NumPy."""
    vae = AutoencoderKLCogVideoX(**{key: value for key, value in TINY_VAE.items() if not key.startswith("_")})
    vae.load_state_dict(load_file(models_dir / VAE_FILE))
    samples = []
    for array in (data.astronaut()[:96, :203], data.cat()[:80, :80], data.coffee()[:64, :100]):
        height, width = (size // 8 for size in array.shape[:2])
        pixels = array[: height * 8, : width * 8] / 127.5 - 1
        with torch.inference_mode():
            video = torch.from_numpy(pixels).float().permute(2, 0, 1)[None, :, None]
            latents = vae.eval().encode(video).latent_dist.mode()[0, :, 0].permute(1, 2, 0).reshape(-1, 16)
        colours = pixels.reshape(height, 8, width, 8, 3).mean(axis=(1, 3)).reshape(-1, 3)
        samples.append((np.hstack([0.7 * latents.double().numpy(), np.ones((len(latents), 1))]), colours))
    return samples


@pytest.fixture(scope="module")
def picture_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    arrays = {"a.png": data.astronaut()[:96, :203], "b.png": data.cat()[:80, :80], "c.png": data.coffee()[:64, :100]}
    for name, array in arrays.items():
        Image.fromarray(array).save(folder / name)
    return [folder / name for name in arrays]


def run_script(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_fit_is_the_least_squares_optimum_and_its_error_that_of_pictures_held_out(
    models_dir, independent_samples, picture_files
):
    result = run_script(models_dir / VAE_FILE, *picture_files)
    assert result.returncode == 0, result.stderr

    def solve(samples):
        inputs, colours = (np.concatenate(parts) for parts in zip(*samples, strict=True))
        return np.linalg.solve(inputs.T @ inputs, inputs.T @ colours)

    values = {}
    exec("class Format:\n" + result.stdout.split("\n\n")[1], values)  # The lines are ready to paste.
    printed = np.array([*values["Format"].latent_rgb_factors, values["Format"].latent_rgb_factors_bias])
    assert printed.shape == (17, 3)
    assert np.abs(printed - solve(independent_samples)).max() <= 2e-4
    errors = [
        colours - inputs @ solve(independent_samples[:i] + independent_samples[i + 1 :])
        for i, (inputs, colours) in enumerate(independent_samples)
    ]
    squares = np.concatenate(errors) ** 2
    colours = np.concatenate([colours for _, colours in independent_samples])
    rmse, r2 = map(float, re.search(r"RMSE (\S+) .* R² (\S+)", result.stdout).groups())
    assert rmse == pytest.approx(np.sqrt(squares.mean()), abs=2e-4)
    assert r2 == pytest.approx(1 - squares.sum() / ((colours - colours.mean(axis=0)) ** 2).sum(), abs=2e-3)


def test_fit_finds_known_factors():
    generator = torch.manual_seed(0)
    factors = torch.randn(17, 3, generator=generator).double()
    pictures = []
    for count in (400, 300):
        inputs = torch.cat((torch.randn(count, 16, generator=generator), torch.ones(count, 1)), dim=1).double()
        pictures.append((inputs, inputs @ factors))
    torch.testing.assert_close(fit_latent_rgb.fit(pictures), factors, rtol=0, atol=1e-10)
    rmse, r2 = fit_latent_rgb.held_out_error(pictures)
    assert rmse < 1e-10 and r2 == pytest.approx(1)


def test_fit_takes_the_scale_of_the_model():
    assert fit_latent_rgb.SCALE_FACTOR == ConsisIDLatentFormat.scale_factor


@pytest.mark.parametrize("broken", ["vae", "picture", "single"])
def test_fit_says_what_is_wrong(broken, models_dir, picture_files, tmp_path, monkeypatch, capsys):
    (tmp_path / "note.txt").write_text("not a picture")
    vae = models_dir / VAE_FILE
    arguments, expected = {
        "vae": ([tmp_path / "note.txt", *picture_files], "note.txt"),
        "picture": ([vae, picture_files[0], tmp_path / "note.txt"], "note.txt cannot be read as a picture"),
        "single": ([vae, picture_files[0]], "give two or more"),
    }[broken]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:  # Python prints its words; argparse has printed its own.
        fit_latent_rgb.main()
    assert stopped.value.code != 0
    assert expected in f"{stopped.value.code}{capsys.readouterr().err}"


def test_16_bit_grey_is_read_as_its_8_bit_twin(tmp_path):
    grey = data.astronaut()[..., 0]
    Image.fromarray(grey * np.uint16(257)).save(tmp_path / "a.png")
    assert np.array_equal(fit_latent_rgb.read_picture(tmp_path / "a.png"), np.dstack([grey] * 3))
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(fit_latent_rgb.ConsisIDError, match=r"a\.tif: its pixels are .*Save it with 8 or 16 bits"):
        fit_latent_rgb.read_picture(tmp_path / "a.tif")
