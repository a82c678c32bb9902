"""Fits the factors by which samplers turn latents into small RGB previews, to the pictures of a CogVideoX VAE.

    python scripts/fit_latent_rgb.py VAE.safetensors [PICTURE ...]

Least squares with a bias from latents, scaled as the model samples them, to the mean colour in -1..1 of the 8x8 pixels
that each stands for. The error is that for pictures held out: each is predicted by a fit to all the others. Prints
lines for ConsisIDLatentFormat in consisid_core/comfyui/transformer.py. Without pictures it takes scikit-image's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parent.parent))
from consisid_core.checkpoint.fit import check_names
from consisid_core.checkpoint.net_config import infer_vae_config
from consisid_core.errors import ConsisIDError
from consisid_core.face.photo import to_eight_bits
from consisid_core.model.vae import CogVideoXVAE

SCALE_FACTOR = 0.7  # Of ConsisIDLatentFormat.
CELL = 8
LONGEST_SIDE = 720


def load_net(path: Path) -> CogVideoXVAE:
    """The VAE of a .safetensors file, in float32. Raises ConsisIDError naming the file if it is another."""
    try:
        state_dict = {name: tensor.float() for name, tensor in load_file(path).items()}
        shapes = {name: tensor.shape for name, tensor in state_dict.items()}
        with torch.device("meta"):
            net = CogVideoXVAE(**infer_vae_config(shapes))
        check_names(shapes, {name: tensor.shape for name, tensor in net.state_dict().items()})
    except (OSError, SafetensorError, ConsisIDError) as error:
        raise ConsisIDError(f"{path}: {error}. Give the .safetensors file of a CogVideoX VAE.") from error
    net.load_state_dict(state_dict, assign=True)
    return net.requires_grad_(False)


def read_picture(path: Path) -> Image.Image:
    """A picture file as RGB. Raises ConsisIDError naming the file if it is none."""
    try:
        with Image.open(path) as picture:
            return to_eight_bits(picture).convert("RGB")
    except ConsisIDError as error:
        raise ConsisIDError(f"{path}: {error}") from error
    except (OSError, UnidentifiedImageError) as error:
        raise ConsisIDError(f"{path} cannot be read as a picture: {error}") from error


def sample_pictures() -> dict[str, Image.Image]:
    """Name -> picture: scikit-image's photographs, and its colour wheel for colours that photographs lack."""
    from skimage import data

    arrays = {name: getattr(data, name)() for name in ("astronaut", "cat", "coffee", "rocket", "colorwheel")}
    arrays["motorcycle"], _, _ = data.stereo_motorcycle()
    return {name: Image.fromarray(array) for name, array in arrays.items()}


def to_pixels(picture: Image.Image) -> torch.Tensor:
    """PIL picture -> [1, 3, 1, H, W] in -1..1, at most 720 pixels wide and high, cut to a multiple of 8."""
    picture = picture.copy()
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    if min(picture.size) < CELL:
        raise ConsisIDError(f"A picture is only {picture.width}x{picture.height} pixels large; leave it out.")
    width, height = (side // CELL * CELL for side in picture.size)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    pixels = pixels.view(picture.height, picture.width, 3)[:height, :width]
    return (pixels.permute(2, 0, 1)[None, :, None].float() / 127.5) - 1


@torch.inference_mode()
def samples(net: CogVideoXVAE, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [1, 3, 1, H, W] -> float64 [n, 17] latents and a column of ones, [n, 3] colours in -1..1."""
    latents = SCALE_FACTOR * net.encode(pixels)[0, :, 0]
    colours = F.avg_pool2d(pixels[:, :, 0], CELL)[0]
    latents, colours = (x.flatten(1).T.double() for x in (latents, colours))
    return torch.cat((latents, torch.ones_like(latents[:, :1])), dim=1), colours


def fit(pictures: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """[(inputs, colours)] of `samples` -> [17, 3], the bias last, with the least sum of squared errors."""
    inputs, colours = (torch.cat(parts) for parts in zip(*pictures, strict=True))
    return torch.linalg.lstsq(inputs, colours, driver="gelsd").solution


def held_out_error(pictures: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    """RMSE in -1..1 and R² over all samples, each picture predicted by the fit to the others."""
    residuals = []
    for i, (inputs, colours) in enumerate(pictures):
        residuals.append(colours - inputs @ fit(pictures[:i] + pictures[i + 1 :]))
    squares = torch.cat(residuals).square()
    colours = torch.cat([colours for _, colours in pictures])
    variance = (colours - colours.mean(dim=0)).square().sum()
    return squares.mean().sqrt().item(), 1 - (squares.sum() / variance).item()


def source_lines(solution: torch.Tensor) -> str:
    """[17, 3] -> the lines of ConsisIDLatentFormat."""
    *factors, bias = ["[" + ", ".join(f"{value:.4f}" for value in row) + "]" for row in solution.tolist()]
    rows = [f"        {', '.join(factors[i : i + 4])}," for i in range(0, len(factors), 4)]
    return "\n".join(
        ["    latent_rgb_factors = [", *rows, "    ]  # fmt: skip", f"    latent_rgb_factors_bias = {bias}"]
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vae", type=Path, metavar="VAE", help="a CogVideoX VAE, .safetensors")
    parser.add_argument("pictures", type=Path, nargs="*", metavar="PICTURE", help="two or more; many kinds are best")
    options = parser.parse_args()
    if len(options.pictures) == 1:
        parser.error("one picture leaves none to check the fit with; give two or more, or none for scikit-image's")
    try:
        net = load_net(options.vae)
        pictures = {path: read_picture(path) for path in options.pictures} or sample_pictures()
        fitted = [samples(net, to_pixels(picture)) for picture in pictures.values()]
    except ConsisIDError as error:
        sys.exit(f"Error: {error}")
    rmse, r2 = held_out_error(fitted)
    count = sum(len(inputs) for inputs, _ in fitted)
    print(f"{len(fitted)} pictures ({', '.join(map(str, pictures))}), {count} latents")
    print(f"Held out: RMSE {rmse:.4f} with colours in -1..1, R² {r2:.4f}\n")
    print(source_lines(fit(fitted)))


if __name__ == "__main__":
    main()
