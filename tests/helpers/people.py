"""The head of the synthetic people, built once for all test runs, and drawings for tests."""

import hashlib

import numpy as np
from consisid_pack.consisid_core.people import head_data
from consisid_pack.consisid_core.people.person import sample_person
from consisid_pack.consisid_core.people.scene import Background, Scene
from consisid_pack.consisid_core.people.shade import Light

from . import ROOT


def head_file():
    """Path of head data that the present code built."""
    code = (ROOT / "consisid_core" / "people" / "head_data.py").read_bytes()
    file = ROOT / ".cache" / f"people-head-{hashlib.sha256(code).hexdigest()[:12]}.npz"
    if not file.is_file():
        head_data.build(file)
    return file


def person_of(head, seed):
    return sample_person(head, np.random.default_rng(seed))


def plain_scene(direction=(0.0, -0.8, 0.6), colour="teal", ambient=0.55):
    """A person from the front, before a plain wall."""
    light = Light(direction, (0.7, 0.7, 0.7), (ambient, ambient, ambient), (0.0, -1.0, 0.0), 0.15)
    return Scene(light, Background("plain", (colour, "white")), (0.0, 0.0), 17.0)
