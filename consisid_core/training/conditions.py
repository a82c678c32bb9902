"""One training example out of one cached clip: which face it is shown, what is left out, how much noise it has.

Everything that is drawn by chance is drawn here, from a generator of the example's own (`data_order`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from ..errors import ConsisIDError
from ..model.config import TransformerConfig
from ..model.schedule import NUM_TRAIN_TIMESTEPS
from .cache import CachedReference, ClipCache
from .config import Conditions, Stage
from .data_order import DataOrder, generator
from .diffusion import LATENT_SCALE

log = logging.getLogger("consisid")


@dataclass(eq=False)
class Example:
    """What the loss of one clip is computed from, or of a batch with [B] before all shapes. float32 if nothing else is
    said; latents are scaled."""

    latents: torch.Tensor
    """[16, T, h, w] of the clip."""
    noise: torch.Tensor
    """[16, T, h, w]"""
    timestep: torch.Tensor
    """[] int64, 0..999."""
    image_latents: torch.Tensor
    """[16, T, h, w]: the face in frame 0 and key points in frame 1, as far as they are used, else zeros."""
    text: torch.Tensor
    """[L, text_embed_dim]"""
    mask: torch.Tensor
    """[T, h, w]: where the loss counts, 0..1."""
    id_embedding: torch.Tensor
    """[1280] of recogniser and EVA tower."""
    hidden_states: torch.Tensor
    """[5, N, vit_dim] of the EVA tower."""
    kept_tokens: torch.Tensor
    """[32] 0 or 1."""
    identity_scale: torch.Tensor
    """[] 0 or 1: whether identity tokens are attended."""
    drawn: torch.Tensor
    """[6] 0 or 1: which of DRAWS came out."""

    def to(self, device: torch.device | str) -> Example:
        """Itself on a device."""
        return Example(*(getattr(self, item.name).to(device, non_blocking=True) for item in fields(self)))

    def pin_memory(self) -> Example:
        """Itself in memory that a card can copy from while the host goes on."""
        return Example(*(getattr(self, item.name).pin_memory() for item in fields(self)))


DRAWS = ("cross face", "masked", "no image", "no text", "no identity", "dropped tokens")
"""What chance decides of an example. TensorBoard shows each one's share."""


def stacked(examples: Sequence[Example]) -> Example:
    """A batch of examples."""
    return Example(*(torch.stack([getattr(one, item.name) for one in examples]) for item in fields(Example)))


class Examples(torch.utils.data.Dataset):
    """The examples of a run by their number. Workers of a DataLoader may have it."""

    def __init__(
        self,
        cache: ClipCache,
        net: TransformerConfig,
        stage: Stage,
        conditions: Conditions,
        mask_probability: float,
        seed: int,
        attempt: int = 0,
    ) -> None:
        """
        Args:
            mask_probability: of the dynamic mask loss (alpha).
            attempt: another number gives other draws, but the same order of clips.

        Raises:
            ConsisIDError: the cache is not for this net, or lacks what the conditions ask for.
        """
        self.cache, self.net, self.stage, self.conditions = cache, net, stage, conditions
        self.mask_probability = mask_probability
        self.seed, self.attempt = seed, attempt
        self.order = DataOrder(len(cache), seed)
        self.people = cache.people()
        self.empty_text = cache.empty_text.float()
        _check_cache(cache, net, conditions)

    def __len__(self) -> int:
        """Clips in a round; examples are numbered on and on."""
        return len(self.cache)

    def __getitem__(self, number: int) -> Example:
        chance = generator("example", self.seed, self.attempt, number)
        index = self.order.clip(number)
        clip = self.cache[index]

        crosses = _happens(self.conditions.cross_face, chance)
        outside = self._outside(index, clip, chance) if crosses else []
        reference = _one_of(outside or clip.inside, chance)
        latents = _sample(clip.latent_mean, clip.latent_std, chance)
        image_latents = self._image_latents(reference, latents, chance)

        has_no_image = _happens(self.conditions.image_dropout, chance)
        has_no_text = _happens(self.conditions.text_dropout, chance)
        has_no_identity = _happens(self.conditions.identity_dropout, chance)
        kept = _uniform(chance, self.net.facial_extractor.num_queries) >= self.conditions.token_dropout
        # A face too small for the latent grid leaves nothing to count inside.
        is_masked = _happens(self.mask_probability, chance) and bool(clip.mask.any())
        drawn = (bool(outside), is_masked, has_no_image, has_no_text, has_no_identity, not kept.all())
        return Example(
            latents=latents,
            noise=_normal(latents, chance),
            timestep=torch.randint(NUM_TRAIN_TIMESTEPS, (), generator=chance),
            image_latents=torch.zeros_like(image_latents) if has_no_image else image_latents,
            text=self.empty_text if has_no_text else clip.text.float(),
            mask=clip.mask.float() if is_masked else torch.ones(clip.mask.shape),
            id_embedding=torch.cat((reference.embedding, reference.eva_embedding)).float(),
            hidden_states=reference.hidden_states.float(),
            kept_tokens=kept.float(),
            identity_scale=torch.tensor(0.0 if has_no_identity else 1.0),
            drawn=torch.tensor(drawn, dtype=torch.float32),
        )

    def _outside(self, index, clip, chance) -> list[CachedReference]:
        """References of the person from outside the clip: of its own video, else from another clip of the person."""
        if clip.outside:
            return clip.outside
        others = [number for number in self.people[clip.person] if number != index]
        return self.cache[_one_of(others, chance)].inside if others else []

    def _image_latents(self, reference, latents, chance):
        image = torch.zeros_like(latents)
        if self.stage.image == "first_frame":
            image[:, 0] = latents[:, 0]  # The VAE is causal: this is the first frame alone.
        elif self.stage.image == "face":
            count = len(reference.noise_sigma)
            # Variant 0 has no noise.
            variant = _whole(1, count, chance) if self.conditions.reference_noise else 0
            image[:, 0] = _sample(reference.latent_mean[variant], reference.latent_std[variant], chance)
            if self.net.keypoints:
                image[:, 1] = _sample(reference.keypoint_mean[variant], reference.keypoint_std[variant], chance)
        return image


def _check_cache(cache, net, conditions):
    if conditions.reference_noise and len(cache[0].inside[0].noise_sigma) < 2:
        raise ConsisIDError(
            f"The cache {cache.folder} has no references with noise, which conditions.reference_noise asks for. "
            "Set it to false, or prepare the cache anew with noise."
        )
    check_sizes(cache, net)
    alone = sum(not entry.outside and len(cache.people()[entry.person]) == 1 for entry in cache.index.clips)
    if conditions.cross_face and alone:
        log.warning(
            "%d of %d clips have no picture of the person from outside the clip: they are always trained with one from "
            "inside.", alone, len(cache),
        )  # fmt: skip


def check_sizes(cache: ClipCache, net: TransformerConfig) -> None:
    """Compare what a cache holds with what a transformer reads.

    Raises:
        ConsisIDError: the cache was made with weights that do not belong to the transformer.
    """
    clip = cache[0]
    reference, face = clip.inside[0], net.facial_extractor
    sizes = {
        "channels of latents": (len(clip.latent_mean), net.out_channels),
        "width of the text": (clip.text.shape[-1], net.text_embed_dim),
        "width of the identity": (len(reference.embedding) + len(reference.eva_embedding), face.id_dim),
        "width of the EVA tower": (reference.hidden_states.shape[-1], face.vit_dim),
        "scales of the EVA tower": (len(reference.hidden_states), face.num_scales),
    }
    if wrong := [f"{name} {there} instead of {wanted}" for name, (there, wanted) in sizes.items() if there != wanted]:
        raise ConsisIDError(
            f"The cache {cache.folder} was made with weights that do not belong to the transformer: "
            f"{', '.join(wrong)}. Prepare another cache with the weights of its release."
        )
    if len(clip.text) > net.max_text_length:
        raise ConsisIDError(
            f"The texts of the cache {cache.folder} have {len(clip.text)} tokens, and the transformer takes "
            f"{net.max_text_length}. Prepare another cache with the weights of its release."
        )


def _sample(mean, std, chance):
    """A scaled sample of the VAE's posterior, as the reference draws (`train.py:1057`)."""
    return (mean.float() + std.float() * _normal(mean, chance)) * LATENT_SCALE


def _normal(like, chance):
    return torch.randn(like.shape, generator=chance)


def _uniform(chance, *shape):
    return torch.rand(shape, generator=chance)


def _happens(probability, chance):
    return bool(_uniform(chance) < probability)


def _whole(least, end, chance):
    return int(torch.randint(least, end, (), generator=chance))


def _one_of(things, chance):
    return things[_whole(0, len(things), chance)]
