import pytest
from consisid_pack.consisid_core.people import surface


@pytest.fixture
def look(people):
    return people[0].look._replace(
        hairline=0.0, hairline_temples=0.0, hairline_peak=0.0, hairline_slant=0.0, hairline_nape=0.0, sideburns=0.0,
        neckline=0.58, neckline_slope=0.0, brow_height=0.0, brow_arch=0.0, brow_length=1.0,
    )  # fmt: skip


def test_hairline(look):
    def above(x, y, z, **changes):
        return surface.above_hairline(x, y, z, look._replace(**changes))

    assert above(0.0, -0.14, 0.76) < 0 < above(0.0, -0.10, 0.84)  # forehead, crown
    assert above(0.0, 0.05, 0.70) > 0 > above(0.0, 0.05, 0.62)  # back of the head, neck
    assert above(0.0, -0.14, 0.80, hairline=0.01) == pytest.approx(above(0.0, -0.14, 0.80) - 0.01)
    assert above(0.0, -0.14, 0.80, hairline_peak=0.005) == pytest.approx(above(0.0, -0.14, 0.80) + 0.005)
    left, right = (above(x, -0.13, 0.80, hairline_slant=0.2) for x in (0.02, -0.02))
    assert left < right  # higher on the person's left


def test_collar(look):
    deep = look._replace(neckline_slope=1.0)
    look = look
    assert surface.collar(0.0, -0.1, look) == pytest.approx(0.58)
    assert surface.collar(0.0, -0.1, deep) == pytest.approx(0.58 - 0.055)
    assert surface.collar(0.0, 0.1, deep) == pytest.approx(0.58)  # never behind
    assert surface.collar(0.2, -0.1, look) > 0.64  # the shoulders are covered


def test_brows(look):
    arched = look._replace(brow_arch=0.005)
    look = look
    assert surface.along_brow(0.010, look) == surface.along_brow(-0.010, look) == pytest.approx(0)
    assert surface.along_brow(0.052, look) == pytest.approx(1)
    assert surface.brow_middle(0.6, arched) - surface.brow_middle(0.6, look) == pytest.approx(0.005, rel=0.01)


def test_smooth_step():
    assert [surface.smooth_step(1.0, 3.0, x) for x in (0.0, 1.0, 2.0, 3.0, 9.0)] == [0, 0, 0.5, 1, 1]
