"""The transformer and its text encoder: coarse to fine, mask loss, cross-face, and a loss through the recogniser.

Coarse: image latents of the face, tokens of zeros. Fine: both halves, image latents dropped often, so that tokens are
read. From a third on the decoded estimate at low noise has to be the person to the recogniser. The identity's own
teaching goes on beside for a while, then its tokens stay as they are: taught by this loss they would collapse.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
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
"""The recogniser's loss: weight in every second step, clips of a batch, and timesteps that it looks at."""
_LAST_OFTEN = 1040
"""Timesteps beyond the last count as the last, where the whole of a face is decided."""
_WINDOW, _ZOOMED = 0.16, 0.85
_REPORT_TIMESTEPS, _REPORT_CLIPS = (999, 800, 500), 64
_MIRRORED_LANDMARKS = (1, 0, 2, 4, 3)


@dataclass
class Windows:
    """A random window of each clip, some mirrored: what it makes of grids and of points."""

    zoom: torch.Tensor
    """[B] part of the side that is seen."""
    middle: torch.Tensor
    """[B, 2] in -1..1."""
    mirrored: torch.Tensor
    """[B] bool."""
    grid: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        across = torch.where(self.mirrored, -self.zoom, self.zoom)
        zeros = torch.zeros_like(across)
        rows = (across, zeros, self.middle[:, 0], zeros, self.zoom, self.middle[:, 1])
        self.grid = torch.stack(rows, dim=1).unflatten(1, (2, 3))

    @classmethod
    def random(cls, count: int, device: str) -> Windows:
        """Different ones."""
        zoomed = torch.rand(count, device=device) < _ZOOMED
        zoom = torch.where(zoomed, 1 - _WINDOW * torch.rand(count, device=device), 1.0)
        middle = (2 * torch.rand(count, 2, device=device) - 1) * (1 - zoom).unsqueeze(1)
        return cls(zoom, middle, torch.rand(count, device=device) < 0.5)

    def look(self, pictures: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] through the windows."""
        grid = F.affine_grid(self.grid, pictures.shape, align_corners=False)
        return F.grid_sample(pictures, grid, align_corners=False, padding_mode="border")

    def landmarks(self, points: torch.Tensor, side: int) -> torch.Tensor:
        """Where [B, 5, 2] pixels of pictures of this side come to lie; left stays on the picture's left."""
        across = torch.where(self.mirrored, -self.zoom, self.zoom)
        scale = torch.stack((across, self.zoom), dim=-1).unsqueeze(1)
        moved = (((points + 0.5) * 2 / side - 1 - self.middle.unsqueeze(1)) / scale + 1) * side / 2 - 0.5
        return torch.where(self.mirrored.view(-1, 1, 1), moved[:, list(_MIRRORED_LANDMARKS)], moved)

    def of(self, chosen: torch.Tensor) -> Windows:
        """Some of them."""
        return Windows(self.zoom[chosen], self.middle[chosen], self.mirrored[chosen])


@dataclass(frozen=True)
class _Batch:
    clips: torch.Tensor
    windows: Windows
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
        batch = self._draw("coarse" if part < _COARSE_UNTIL else "fine")
        timestep = self._timesteps(len(batch.clips))
        noise = torch.randn_like(batch.latents)
        noisy = add_noise(batch.latents, noise, timestep)
        predicted = self._predict(noisy, timestep, batch)
        loss = clip_losses(predicted, velocity(batch.latents, noise, timestep), self._masks(batch.face)).mean()
        if part > _IDENTITY_LOSS_FROM and self.updates % 2:
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

    def _draw(self, phase):
        """Clips through windows, with captions, references and tokens, each as the recipe drops it."""
        pool, count = self.pool, self.batch
        clips = pool.some(pool.clips, count, self.rng)
        people, (one, _) = pool.owner[clips], pool.two_references(count, self.rng)
        windows = Windows.random(count, self.device)
        frames = pixels(pool.clip[clips])
        seen = windows.look(frames.flatten(1, 2)).view_as(frames)
        outside = self._happens(_OUTSIDE)

        def reference(of_people, of_clips):
            own, within = of_people[people, one], of_clips[clips]
            return torch.where(outside.view(-1, *[1] * (own.ndim - 1)), own, within)

        def turned(picture):
            return torch.where(windows.mirrored.view(-1, *[1] * (picture.ndim - 1)), picture.flip(-1), picture)

        picture = turned(pixels(reference(pool.reference, pool.inside)))
        image = self.code.encode_pictures(with_noise(other_exposure(picture)))
        image = image * ~self._happens(_NO_IMAGE[phase]).view(-1, 1, 1, 1)
        tokens = self._tokens(
            reference(pool.embedding, pool.inside_embedding), turned(reference(pool.grey, pool.inside_grey))
        )
        text = pool.text[clips, windows.mirrored.long()].long()
        return _Batch(
            clips=clips,
            windows=windows,
            latents=self.code.encode(seen.transpose(1, 2)),
            face=windows.look(pool.face[clips].float()),
            text=torch.where(self._happens(_NO_TEXT).unsqueeze(1), self.empty_text, text),
            image=image,
            tokens=tokens if phase == "fine" else torch.zeros_like(tokens),
        )

    @torch.no_grad()
    def _tokens(self, embedding, grey):
        with self.precision():
            return self.identity(embedding, grey).float()

    def _happens(self, chance):
        return torch.rand(self.batch, device=self.device) < chance

    def _timesteps(self, count):
        """Spread evenly over a batch, so that its loss says more."""
        places = torch.from_numpy(self.rng.permutation(count)).to(self.device)
        even = (places + torch.rand(count, device=self.device)) / count
        return (even * _LAST_OFTEN).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)

    def _masks(self, face):
        """Dynamic mask loss (paper section 3.4); where there is no face the whole clip counts."""
        masked = self._happens(_MASKED) & (face.flatten(1).sum(1) > 1)
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
        points = batch.windows.of(chosen).landmarks(points, pictures.shape[-1])
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
