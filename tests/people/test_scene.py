import numpy as np
import pytest
from consisid_pack.consisid_core.people.person import COLOURS
from consisid_pack.consisid_core.people.scene import BACKGROUNDS, Background, sample_scene
from helpers.people import plain_scene


def test_kinds_have_their_shares():
    scenes = [sample_scene(np.random.default_rng(seed)) for seed in range(300)]
    kinds = [scene.background.kind for scene in scenes]
    for kind, share in BACKGROUNDS.items():
        assert kinds.count(kind) / 300 == pytest.approx(share, abs=0.09)
    assert all(len(set(scene.background.colours)) == 2 for scene in scenes)
    for light in (scene.light for scene in scenes):
        assert np.linalg.norm(light.direction) == pytest.approx(1)
        assert light.direction[1] < 0 < light.direction[2]  # from the front and above


@pytest.mark.parametrize("word", COLOURS)
def test_plain_wall_has_its_colour(word):
    wall = Background("plain", (word, "white")).draw(40, 60)
    assert wall.shape == (40, 60, 3) and wall.dtype == np.float32
    distances = {other: np.abs(wall.mean((0, 1)) - np.array(value)).sum() for other, value in COLOURS.items()}
    assert min(distances, key=distances.get) == word


def test_patterns_show_both_colours():
    for kind in set(BACKGROUNDS) - {"plain"}:
        wall = Background(kind, ("red", "blue")).draw(96, 96)
        red = wall[..., 0] > wall[..., 2]
        assert 0.2 < red.mean() < 0.9, kind
    rows = Background("gradient", ("red", "blue")).draw(96, 96)[..., 0].mean(1)
    assert rows[0] > 2 * rows[-1]  # from the first colour above to the second below


def test_camera_approaches():
    scene = plain_scene()
    target = scene.camera(0.7)[1]
    far, usual, near = (np.linalg.norm(scene.camera(0.7, approach)[0] - target) for approach in (-1, 0, 1))
    assert far == pytest.approx(1.22 * usual) and near == pytest.approx(0.78 * usual)
    assert scene.camera(0.7)[0][1] < -1  # in front of the person
