import numpy as np
import pytest
from consisid_pack.consisid_core.people import paint

CHEEK = (0.045, -0.12, 0.69)


@pytest.fixture
def look(people):
    return people[0].look._replace(
        blush=0.0, freckles=0.0, beard=0.0, wrinkles=0.0, skin=(0.8, 0.6, 0.45), hair=(0.1, 0.05, 0.02),
        shirt=(0.1, 0.2, 0.8), shirt_second=(0.9, 0.9, 0.1), shirt_pattern=0, neckline=0.58,
    )  # fmt: skip


def skin(look, place, lips=0.0, mouth=0.0):
    colour, shine, creep = paint.skin(*place, lips, 0.0, 0.0, mouth, look)
    return np.array(colour), shine, creep


def test_places_have_their_colours(look):
    np.testing.assert_allclose(skin(look, CHEEK)[0], look.skin, rtol=0.12)
    np.testing.assert_allclose(skin(look, (0.0, -0.15, 0.655), lips=1.0)[0], look.lips, rtol=0.02)
    np.testing.assert_allclose(skin(look, (0.0, -0.05, 0.86))[0], look.hair, rtol=0.2)
    colour, _, creep = skin(look, (0.1, -0.1, 0.5))
    np.testing.assert_allclose(colour, look.shirt, rtol=0.12)
    assert creep == 0 < skin(look, CHEEK)[2]


def test_features_show(look):
    chin = (0.0, -0.13, 0.63)
    assert skin(look._replace(beard=1.0), chin)[0].sum() < 0.6 * skin(look, chin)[0].sum()
    redder, plain = (skin(look._replace(blush=amount), CHEEK)[0] for amount in (0.6, 0.0))
    assert redder[0] == plain[0] and redder[1] < 0.95 * plain[1]
    assert skin(look, (0.0, -0.13, 0.66), mouth=1.0)[0][0] == pytest.approx(0.30)


def test_shirt_patterns(look):
    places = [(x, -0.1, z) for x in np.linspace(-0.1, 0.1, 40) for z in (0.45, 0.47)]
    for pattern in (1, 2, 3):
        colours = np.array([paint.shirt(*place, look._replace(shirt_pattern=pattern)) for place in places])
        blue = colours[:, 2] > colours[:, 0]
        assert blue.any() and not blue.all()
    assert (np.array([paint.shirt(*place, look) for place in places])[:, 2] > 0.5).all()


def test_eye(look):
    x, y, z = paint.EYE_CENTRE
    look = look
    radius = 0.012
    pupil = paint.eye(x, y - radius, z, look)
    white = paint.eye(x + radius, y - 0.002, z, look)
    iris = paint.eye(x + 0.33 * radius, y - 0.944 * radius, z, look)
    assert max(pupil) < 0.1 < 0.6 < min(white)
    assert np.abs(np.array(iris) / look.iris - iris[0] / look.iris[0]).max() < 0.05  # the iris's hue


def test_noise_is_smooth_and_bounded():
    values = np.array([paint.noise(x, 0.3, 0.7) for x in np.linspace(-5, 5, 2000)])
    assert values.min() >= -0.5 and values.max() <= 0.5 and values.std() > 0.1
    assert np.abs(np.diff(values)).max() < 0.02


def test_strands_and_curls_differ(look):
    assert paint.strand(0.02, 0.02, 0.8, look._replace(hair_curls=1.0)) != paint.strand(
        0.02, 0.02, 0.8, look._replace(hair_curls=0.0)
    )
