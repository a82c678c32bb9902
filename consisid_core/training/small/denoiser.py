"""The transformer and its text encoder: coarse to fine, mask loss, cross-face, and a loss through the recogniser.

Coarse: image latents of the face, tokens of zeros. Fine: both halves, image latents dropped often, so that tokens are
read. From a third on the decoded estimate at low noise has to be the person to the recogniser. The identity's own
teaching goes on beside for a while, then its tokens stay as they are: taught by this loss they would collapse.

What a small net learns last is where everything goes, which is decided at much noise: most timesteps are drawn there,
and most steps see first frames alone, which cost a third of a clip and show the same.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...model.schedule import NUM_TRAIN_TIMESTEPS
from ..diffusion import add_noise, denoised, velocity
from ..losses import clip_losses
from .code import LinearCode
from .identity import IdentityTask
from .nets import Identity, Sizes, TextAndVideo
from .pool import Pool, other_exposure, pixels, with_noise
from .sface import Recogniser, recogniser_crops
from .stage import Task, warmed

_COARSE_UNTIL, _IDENTITY_LOSS_FROM, _DECAY_FROM, _FREEZE_FROM = 0.15, 0.3, 0.55, 0.6
"""Parts of the stage."""
_STARTED = 0.31
"""Where weights to go on from begin: behind the coarse part."""
_OUTSIDE, _MASKED, _NO_TEXT = 0.5, 0.5, 0.1
"""Chances: a reference from outside the clip (beta), a loss inside the face alone (alpha), an empty caption."""
_NO_IMAGE = {"coarse": 0.05, "fine": 0.3}
_TEACH_EVERY, _REFRESH = 6, 20
_IDENTITY_WEIGHT, _IDENTITY_CLIPS, _IDENTITY_BELOW = 0.3, 40, 700
"""The recogniser's loss: weight in steps on clips, clips of a batch, and timesteps that it looks at."""
_MUCH_NOISE, _SHARE_OF_MUCH = 650, 0.7
"""Share of the timesteps that are drawn from so high up."""
_LAST_OFTEN = 1010
"""Timesteps beyond the last count as the last, where the whole of a face is decided."""
_STILLS, _STILLS_FOR_A_CLIP = 0.6, 3
"""Chance of a step on first frames, and how many of them such a batch has for each clip."""
_REPORT_TIMESTEPS, _REPORT_CLIPS = (999, 800, 500), 64
_MIRRORED_LANDMARKS = (1, 0, 2, 4, 3)


@dataclass(frozen=True)
class _Batch:
    clips: torch.Tensor
    mirrored: torch.Tensor
    latents: torch.Tensor
    face: torch.Tensor
    text: torch.Tensor
    image: torch.Tensor
    tokens: torch.Tensor


class DenoiserTask(Task):
    """The stage `denoiser`."""

    name = "denoiser"

    def __init__(
        self,
        sizes: Sizes,
        pool: Pool,
        code: LinearCode,
        identity: IdentityTask | Identity,
        vocabulary: int,
        empty_text: torch.Tensor,
        recogniser: Recogniser,
        device: str,
        seed: int = 0,
        batch: int = 192,
    ) -> None:
        """
        Args:
            identity: the stage, which goes on beside; or a finished one, which stays.
            vocabulary: rows of the text encoder.
            empty_text: [L] of no caption.
        """
        torch.manual_seed(seed)
        super().__init__(TextAndVideo(sizes, vocabulary), device, rate=1e-3, betas=(0.9, 0.98), decay=0.999)
        self.pool, self.code, self.batch = pool, code, batch
        self.teacher = identity if isinstance(identity, IdentityTask) else None
        self.identity = identity.averaged.identity if self.teacher else identity.to(device)
        self.empty_text = empty_text.to(device)
        self.recogniser = recogniser.to(device).eval().requires_grad_(False)
        self.rng = np.random.default_rng(seed)
        self.begins_at = 0.0
        # Weights, gradients and activations in bfloat16 where that is faster; the optimiser keeps those in float32.
        self.fast = self.net
        if device.startswith("cuda"):
            self.fast = copy.deepcopy(self.net).bfloat16()
            self.fast.transformer.compile()

    def step(self, part: float) -> None:
        """As `Task.step`."""
        part = self.begins_at + (1 - self.begins_at) * part
        if self.updates % _REFRESH == 0:
            self.pool.refresh()
        if self.teacher and part < _FREEZE_FROM and self.updates % _TEACH_EVERY == 0:
            self.teacher.step(part)
        stills = self.rng.random() < _STILLS
        batch = self._draw("coarse" if part < _COARSE_UNTIL else "fine", stills)
        timestep = self._timesteps(len(batch.clips))
        noise = torch.randn_like(batch.latents)
        noisy = add_noise(batch.latents, noise, timestep)
        predicted = self._predict(noisy, timestep, batch)
        loss = clip_losses(predicted, velocity(batch.latents, noise, timestep), self._masks(batch.face)).mean()
        if part > _IDENTITY_LOSS_FROM and not stills:
            loss = loss + _IDENTITY_WEIGHT * self._identity_loss(noisy, predicted, timestep, batch)
        self.update(loss, warmed(self.updates, 300) * _decay(part))

    def _predict(self, noisy, timestep, batch):
        kind = next(self.fast.parameters()).dtype
        inputs = (noisy.to(kind), timestep, batch.text, batch.image.to(kind), batch.tokens.to(kind))
        return self.fast(*inputs).float()

    def backward(self, loss: torch.Tensor) -> None:
        """As `Task.backward`, through the copy that ran."""
        super().backward(loss)
        if self.fast is not self.net:
            for parameter, copied in zip(self.net.parameters(), self.fast.parameters(), strict=True):
                parameter.grad = None if copied.grad is None else copied.grad.float()
                copied.grad = None

    def average(self) -> None:
        """As `Task.average`; the copy follows, too."""
        super().average()
        self._copy_to_fast()

    @torch.no_grad()
    def _copy_to_fast(self):
        if self.fast is not self.net:
            torch._foreach_copy_(list(self.fast.parameters()), list(self.net.parameters()))

    def _draw(self, phase, stills=False):
        """Clips or their first frames, some mirrored, with captions, references and tokens, each as the recipe drops
        it."""
        pool, count = self.pool, self.batch * (_STILLS_FOR_A_CLIP if stills else 1)
        clips = pool.some(pool.clips, count, self.rng)
        people, (one, _) = pool.owner[clips], pool.two_references(count, self.rng)
        mirrored, outside = self._happens(0.5, count), self._happens(_OUTSIDE, count)

        def reference(of_people, of_clips):
            own, within = of_people[people, one], of_clips[clips]
            return torch.where(outside.view(-1, *[1] * (own.ndim - 1)), own, within)

        def turned(picture):
            return torch.where(mirrored.view(-1, *[1] * (picture.ndim - 1)), picture.flip(-1), picture)

        frames = turned(pixels(pool.clip[clips, : 1 if stills else None]))
        latents = self.code.encode(frames.transpose(1, 2))
        picture = turned(pixels(reference(pool.reference, pool.inside)))
        image = self.code.encode_pictures(with_noise(other_exposure(picture)))
        image = image * ~self._happens(_NO_IMAGE[phase], count).view(-1, 1, 1, 1)
        tokens = self._tokens(
            reference(pool.embedding, pool.inside_embedding), turned(reference(pool.grey, pool.inside_grey))
        )
        text = pool.text[clips, mirrored.long()].long()
        return _Batch(
            clips=clips,
            mirrored=mirrored,
            latents=latents,
            face=turned(pool.face[clips].float())[:, : latents.shape[2]],
            text=torch.where(self._happens(_NO_TEXT, count).unsqueeze(1), self.empty_text, text),
            image=image,
            tokens=tokens if phase == "fine" else torch.zeros_like(tokens),
        )

    @torch.no_grad()
    def _tokens(self, embedding, grey):
        with self.precision():
            return self.identity(embedding, grey).float()

    def _happens(self, chance, count):
        return torch.rand(count, device=self.device) < chance

    def _timesteps(self, count):
        """Spread evenly over a batch, so that its loss says more."""
        places = (torch.from_numpy(self.rng.permutation(count)) + torch.rand(count)) / count
        few = 1 - _SHARE_OF_MUCH
        low = places / few * _MUCH_NOISE
        high = _MUCH_NOISE + (places - few) / _SHARE_OF_MUCH * (_LAST_OFTEN - _MUCH_NOISE)
        timesteps = torch.where(places < few, low, high).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)
        return timesteps.to(self.device)

    def _masks(self, face):
        """Dynamic mask loss (paper section 3.4); where there is no face the whole clip counts."""
        masked = self._happens(_MASKED, len(face)) & (face.flatten(1).sum(1) > 1)
        return torch.where(masked.view(-1, 1, 1, 1), face, torch.ones_like(face))

    def _identity_loss(self, noisy, predicted, timestep, batch):
        """1 - the recogniser's cosine of one frame of each estimate with the person's photos, less at much noise."""
        chosen = (timestep < _IDENTITY_BELOW).nonzero()[:_IDENTITY_CLIPS, 0]
        if not len(chosen):
            return predicted.sum() * 0
        at, clips = timestep[chosen], batch.clips[chosen]
        estimate = denoised(noisy[chosen], predicted[chosen], at)
        latent = torch.from_numpy(self.rng.integers(1, estimate.shape[2], len(chosen))).to(self.device)
        frame = torch.from_numpy(self.rng.integers(0, 4, len(chosen))).to(self.device)
        every = torch.arange(len(chosen), device=self.device)
        pictures = self.code.decode_groups(estimate[every, :, latent].unsqueeze(2))[every, 0, frame]
        points = self.pool.landmarks[clips, 1 + 4 * (latent - 1) + frame]
        points = mirrored_landmarks(points, batch.mirrored[chosen], pictures.shape[-1])
        found = F.normalize(self.recogniser(recogniser_crops(pictures, points)), dim=-1)
        photos = F.normalize(self.pool.embedding[self.pool.owner[clips]], dim=-1)
        cosine = (found * F.normalize(photos.mean(1), dim=-1)).sum(-1)
        signal = denoised(torch.ones_like(cosine), torch.zeros_like(cosine), at)  # sqrt(a)
        return ((1 - cosine) * signal.square()).mean()

    @torch.no_grad()
    def report(self) -> str:
        """As `Task.report`: the loss, and how much another person's tokens and image add, in standard errors."""
        return "; ".join(held_out_losses(self.averaged, self.pool, self.code, self._tokens))

    def state(self) -> dict[str, Any]:
        """As `Task.state`, with the identity that the tokens come from."""
        identity = {name: x.detach().cpu() for name, x in self.identity.state_dict().items()}
        teacher = self.teacher.state() if self.teacher else None
        return {**super().state(), "identity": identity, "teacher": teacher, "begins_at": self.begins_at}

    def load(self, state: dict[str, Any]) -> None:
        """As `Task.load`."""
        super().load(state)
        if self.teacher and state.get("teacher"):
            self.teacher.load(state["teacher"])
        elif "identity" in state:
            self.identity.load_state_dict(state["identity"])
        self.begins_at = state.get("begins_at", _STARTED)
        self._copy_to_fast()


def mirrored_landmarks(points: torch.Tensor, mirrored: torch.Tensor, side: int) -> torch.Tensor:
    """Where [B, 5, 2] pixels of pictures of this side come to lie in mirrored ones; left stays on the picture's left.

    Args:
        mirrored: [B] bool.
    """
    flipped = torch.stack((side - 1 - points[..., 0], points[..., 1]), dim=-1)[:, list(_MIRRORED_LANDMARKS)]
    return torch.where(mirrored.view(-1, 1, 1), flipped, points)


def held_out_losses(net: TextAndVideo, pool: Pool, code: LinearCode, tokens_of) -> list[str]:
    """What a net's loss is on clips of held-out people, at some timesteps, in words.

    Args:
        net: of any state; pool: the clips; code: of the latents.
        tokens_of: embedding [B, 512] and grey crop [B, 112, 112] -> tokens.
    """
    losses = measure(net, pool, code, tokens_of)
    said = []
    for timestep, loss in losses.items():
        gaps = ", ".join(f"another's {name} {_gap(loss[name], loss['own'])}" for name in ("tokens", "image"))
        said.append(f"t {timestep} loss {loss['own'].mean():.4f}, {gaps}")
    return said


@torch.no_grad()
def measure(net: TextAndVideo, pool: Pool, code: LinearCode, tokens_of) -> dict[int, dict[str, torch.Tensor]]:
    """Timestep -> "own", "tokens", "image" -> velocity loss of each held-out clip, whose tokens or image are another
    person's. The noise is the same every time. Arguments as of `held_out_losses`."""
    device = pool.device
    clips = torch.tensor(pool.held_clips[:_REPORT_CLIPS], device=device)
    people = pool.owner[clips]
    others = torch.tensor([_other(people, i) for i in range(len(people))], device=device)
    latents = code.encode(pixels(pool.clip[clips]).transpose(1, 2))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(device)
    text = pool.text[clips, 0].long()

    def image(who):
        return code.encode_pictures(pixels(pool.reference[who, 0]))

    def tokens(who):
        return tokens_of(pool.embedding[who, 0], pool.grey[who, 0].float())

    conditions = {"own": (people, people), "tokens": (people, others), "image": (others, people)}
    losses = {}
    for timestep in _REPORT_TIMESTEPS:
        at = torch.full((len(clips),), timestep, device=device)
        noisy, wanted = add_noise(latents, noise, at), velocity(latents, noise, at)
        everywhere = torch.ones_like(noisy[:, 0])
        losses[timestep] = {
            name: clip_losses(net(noisy, at, text, image(seen), tokens(read)), wanted, everywhere).cpu()
            for name, (seen, read) in conditions.items()
        }
    return losses


def _other(people, i):
    return next((int(x) for x in people.roll(-i - 1) if x != people[i]), int(people[i]))


def _gap(losses, own):
    gaps = losses - own
    error = gaps.std() / len(gaps) ** 0.5 if len(gaps) > 1 else torch.tensor(float("nan"))
    return f"{gaps.mean():+.4f} ({gaps.mean() / error:.1f} SE)"


def _decay(part):
    """The learning rate's factor: constant, then a half cosine to a fiftieth."""
    if part < _DECAY_FROM:
        return 1.0
    down = (part - _DECAY_FROM) / (1 - _DECAY_FROM)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * down))
