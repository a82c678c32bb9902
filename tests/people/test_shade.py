import numpy as np
from consisid_pack.consisid_core.people.labels import SKIN
from consisid_pack.consisid_core.people.motion import Moment
from consisid_pack.consisid_core.people.scene import Scene
from consisid_pack.consisid_core.people.shade import Light
from helpers.people import plain_scene

FACING = Moment((0, 0, 0))


def halves(drawing):
    """Mean brightness of the skin on the picture's left and right half."""
    skin = (drawing.labels == SKIN)[..., None] * np.ones(3)
    return [np.average(part, weights=where) for part, where in zip(
        np.split(drawing.picture, 2, axis=1), np.split(skin, 2, axis=1), strict=True
    )]  # fmt: skip


def test_key_light_has_a_side(renderer, people):
    person = people[0]
    left, right = (renderer.draw(person, plain_scene((x, -0.5, 0.35), ambient=0.3), FACING) for x in (-0.79, 0.79))
    assert halves(left)[0] > 1.2 * halves(left)[1]
    assert halves(right)[1] > 1.2 * halves(right)[0]


def test_light_adds_up(renderer, people):
    dark, dim, bright = (
        renderer.draw(people[0], plain_scene(ambient=ambient), FACING).picture.mean() for ambient in (0.2, 0.4, 0.6)
    )
    assert dark < dim < bright


def test_colour_of_the_light(renderer, people):
    white = plain_scene()
    warm = Scene(
        Light(white.light.direction, (0.8, 0.7, 0.5), *white.light[2:]), white.background, (0.0, 0.0), 17.0
    )  # fmt: skip
    pictures = [renderer.draw(people[0], scene, FACING) for scene in (white, warm)]
    ratios = [picture.picture[picture.labels == SKIN].mean(0) for picture in pictures]
    assert ratios[1][0] / ratios[1][2] > 1.1 * ratios[0][0] / ratios[0][2]


def test_chin_casts_a_shadow(renderer, people):
    """Light from straight above leaves the neck darker than light from the front does."""
    neck = renderer.draw(people[0], plain_scene(), FACING).labels == 14
    above, front = (
        renderer.draw(people[0], plain_scene(direction, ambient=0.3), FACING).picture[neck].mean()
        for direction in ((0.0, -0.35, 0.94), (0.0, -0.999, 0.04))
    )
    assert above < 0.8 * front


def test_background_is_not_lit(renderer, people):
    walls = [renderer.draw(people[0], plain_scene(ambient=ambient), FACING) for ambient in (0.2, 0.6)]
    np.testing.assert_array_equal(walls[0].picture[:10, :10], walls[1].picture[:10, :10])
