"""What has arrived on the shelf so far, on the device that trains; and pictures changed as cameras change them."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import ConsisIDError
from ...face.parsing import FACE_LABELS
from .shelf import HELD_OUT, REFERENCES, Shelf

_ARRAYS = (
    "reference", "grey", "embedding", "facts", "clip", "landmarks", "text", "inside", "inside_grey",
    "inside_embedding",
)  # fmt: skip
_OF_PEOPLE = ("reference", "grey", "embedding", "facts")
_WAIT = 1.0


class Pool:
    """The shelf's arrays with rows joined: [W * P, ...] of people, [W * C, ...] of clips. On the CPU they are the files
    themselves; an accelerator gets copies as people and clips arrive."""

    def __init__(self, shelf: Shelf, device: str) -> None:
        self.shelf, self.device = shelf, device
        self.people: list[int] = []
        self.held_people: list[int] = []
        self.clips: list[int] = []
        self.held_clips: list[int] = []
        extent = shelf.extent
        self._seen = np.zeros((extent.rows, 2), int)
        for name in _ARRAYS:
            joined = torch.from_numpy(getattr(shelf, name)).flatten(0, 1)
            setattr(self, name, joined if device == "cpu" else torch.empty_like(joined, device=device))
        clips, side = extent.rows * extent.clips, extent.pixels // 8
        self.owner = torch.zeros(clips, dtype=torch.long, device=device)
        self.face = torch.zeros(clips, (extent.frames - 1) // 4 + 1, side, side, dtype=torch.float16, device=device)
        """How much of each latent pixel shows the face."""
        self.refresh()

    def refresh(self) -> None:
        """Take in what is new."""
        for row, (people, clips) in enumerate(np.array(self.shelf.counts)):
            # A clip's owner was whole before the clip was, but may not have been when this row was counted.
            people = max(people, self._seen[row, 0])
            self._add_people(row, people)
            self._add_clips(row, clips)

    def wait_for(self, people: int, clips: int = 0, seconds: float = 600) -> None:
        """Until so many arrived.

        Raises:
            ConsisIDError: nothing new came for so long.
        """
        last = time.monotonic()
        while not self._holds(people, clips):
            before = self._seen.sum()
            self.refresh()
            if self._seen.sum() > before:
                last = time.monotonic()
            elif time.monotonic() - last > seconds:
                raise ConsisIDError(
                    f"There are {len(self.people)} people and {len(self.clips)} clips to train on, which is too few, "
                    "and no more arrive. Run the stage people, too: --stages people,..."
                )
            else:
                time.sleep(_WAIT)

    def _holds(self, people, clips):
        """Whether so many are there, and some that are held out."""
        enough = len(self.people) >= people and len(self.clips) >= clips
        return enough and bool(self.held_people) and (not clips or bool(self.held_clips))

    def _add_people(self, row, end):
        start, first = self._seen[row, 0], row * self.shelf.extent.people
        if end > start:
            self._copy(_OF_PEOPLE, first + start, first + end)
            for i in range(start, end):
                (self.held_people if i < HELD_OUT else self.people).append(first + i)
            self._seen[row, 0] = end

    def _add_clips(self, row, end):
        extent = self.shelf.extent
        owners = np.array(self.shelf.owner[row, :end])
        late = np.flatnonzero(owners >= self._seen[row, 0])
        end = int(late[0]) if len(late) else end
        start, first = self._seen[row, 1], row * extent.clips
        if end > start:
            place = slice(first + start, first + end)
            self._copy([name for name in _ARRAYS if name not in _OF_PEOPLE], place.start, place.stop)
            self.owner[place] = (
                torch.from_numpy(owners[start:end].astype(np.int64)).to(self.device) + row * extent.people
            )
            labels = torch.from_numpy(self.shelf.labels[row, start:end]).to(self.device)
            self.face[place] = latent_face(labels).half()
            for i in range(start, end):
                (self.held_clips if owners[i] < HELD_OUT else self.clips).append(first + i)
            self._seen[row, 1] = end

    def _copy(self, names, start, end):
        if self.device != "cpu":
            for name in names:
                source = torch.from_numpy(getattr(self.shelf, name)).flatten(0, 1)
                getattr(self, name)[start:end] = source[start:end].to(self.device)

    def some(self, numbers: list[int], count: int, rng: np.random.Generator) -> torch.Tensor:
        """[count] random ones of `people` or `clips`."""
        return torch.from_numpy(rng.choice(np.array(numbers), count)).to(self.device)

    def two_references(self, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """[count] places of one reference of a person, and of another."""
        one = torch.from_numpy(rng.integers(0, REFERENCES, count)).to(self.device)
        away = torch.from_numpy(rng.integers(1, REFERENCES, count)).to(self.device)
        return one, (one + away) % REFERENCES


def pixels(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in -1..1."""
    return pictures.movedim(-1, -3).float() / 127.5 - 1


def latent_face(labels: torch.Tensor) -> torch.Tensor:
    """uint8 [N, 4n+1, H, W] label maps -> [N, n+1, H/8, W/8] 0..1; the first frame has a latent of its own."""
    face = torch.isin(labels, labels.new_tensor(FACE_LABELS)).float()
    cells = F.avg_pool2d(face, 8)
    return torch.cat((cells[:, :1], cells[:, 1:].unflatten(1, (-1, 4)).mean(2)), dim=1)


def other_exposure(pictures: torch.Tensor) -> torch.Tensor:
    """References in another light: [B, 3, H, W] in -1..1, brighter or darker, warmer or cooler. White stays white."""
    gamma = torch.exp(torch.randn(len(pictures), 1, 1, 1, device=pictures.device) * 0.15)
    tint = torch.exp(torch.randn(len(pictures), 3, 1, 1, device=pictures.device) * 0.04)
    lit = 1 - (1 - ((pictures + 1) / 2) ** gamma) * tint
    return lit.clamp(0, 1) * 2 - 1


def with_noise(pictures: torch.Tensor) -> torch.Tensor:
    """The recipe's pixel noise, whose strength is exp(N(-3, 0.5)) (official `dataloader.py`)."""
    sigma = torch.exp(torch.randn(len(pictures), 1, 1, 1, device=pictures.device) * 0.5 - 3)
    return pictures + sigma * torch.randn_like(pictures)
