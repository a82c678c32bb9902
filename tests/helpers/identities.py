"""Faces of random numbers, to be saved and compared."""

import dataclasses

import torch
from consisid_pack.consisid_core.types import Face

FIELDS = [field.name for field in dataclasses.fields(Face)]


def make_face(photos=1, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape):
        return torch.rand(photos, *shape, generator=generator)

    gray = numbers(512, 512, 1).expand(-1, -1, -1, 3)
    return Face(
        embedding=numbers(512) * 40 - 20, landmarks=numbers(5, 2) * 900, bbox=numbers(4) * 900, score=numbers(),
        image=numbers(512, 512, 3), gray_image=gray, alignment=numbers(2, 3) - 0.5,
    )  # fmt: skip


def assert_same(one, other):
    for field in FIELDS:
        first, second = getattr(one, field), getattr(other, field)
        assert first.dtype == second.dtype and first.shape == second.shape, field
        assert torch.equal(first.contiguous().view(torch.int32), second.contiguous().view(torch.int32)), field
