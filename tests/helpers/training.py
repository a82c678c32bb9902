"""Small caches of random numbers, for tests that train or read."""

import torch
from consisid_pack.consisid_core.training.cache import (
    CachedClip,
    CachedReference,
    Geometry,
    Index,
    write_clip,
    write_empty_text,
    write_index,
)

GEOMETRY = Geometry(width=48, height=32, frames=9, stride=1)
VARIANTS = 3


def random_reference(generator, geometry=GEOMETRY, eva_dim=32, vit_dim=64):
    def randn(*shape):
        return torch.randn(shape, generator=generator)

    _, h, w = geometry.latent_size
    sigma = torch.cat((torch.zeros(1), torch.exp(randn(VARIANTS - 1) * 0.5 - 3)))
    latents = [randn(VARIANTS, 16, h, w).half() for _ in range(4)]
    latents[1::2] = [std.abs() for std in latents[1::2]]
    return CachedReference(*latents, sigma, randn(512), randn(eva_dim), randn(5, 10, vit_dim).half())


def random_clip(seed, geometry=GEOMETRY, text_length=226, text_dim=64, inside=2, outside=1, person="anna"):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator).half()

    size = geometry.latent_size
    return CachedClip(
        name=f"videos/{seed}.mp4",
        caption=f"Person number {seed}.",
        person=person,
        mask_source="given",
        latent_mean=randn(16, *size),
        latent_std=randn(16, *size).abs(),
        text=randn(text_length, text_dim),
        mask=torch.rand(size, generator=generator).half(),
        inside=[random_reference(generator, geometry) for _ in range(inside)],
        outside=[random_reference(generator, geometry) for _ in range(outside)],
    )


def write_random_cache(folder, clips, geometry=GEOMETRY):
    """A cache of these clips, as `prepare` leaves it."""
    indexed = tuple(write_clip(folder, f"{number:04d}", clip) for number, clip in enumerate(clips))
    write_empty_text(folder, torch.zeros_like(clips[0].text))
    nets = {net: net * 2 for net in ("vae", "text_encoder", "eva", "parser", "face_pack")}
    write_index(folder, Index(geometry, nets, is_demo=True, clips=indexed, missing=0))
    return folder
