import numpy as np
import pytest
from consisid_pack.consisid_core.people import hair
from consisid_pack.consisid_core.people.head import EARS


@pytest.fixture
def grow(head, people):
    def grow(height=0.02, sides=1.0, **changes):
        roots = head.template[head.hair_roots]
        look = people[0].look._replace(**changes)
        return roots, hair.heights(roots, head.zones[head.hair_roots, EARS], look, height, sides)

    return grow


def test_grows_above_the_hairline_only(grow):
    roots, heights = grow()
    crown, brow = roots[:, 2] > 0.83, (roots[:, 2] < 0.785) & (roots[:, 1] < -0.13)
    np.testing.assert_allclose(heights[crown], 0.02, atol=5e-4)
    assert brow.any() and (heights[brow] < 0).all()  # under the skin


def test_receding_hairline_bares_the_forehead(grow):
    bare = [(grow(hairline=amount)[1] < 0).sum() for amount in (-0.006, 0.02)]
    assert bare[1] > bare[0] + 5


def test_short_sides(grow):
    roots, heights = grow(sides=0.3)
    side, top = (roots[:, 2] < 0.75) & (roots[:, 1] > -0.03), roots[:, 2] > 0.83
    assert heights[side].max() < 0.4 * heights[top].min()


def test_cap_copies_the_scalp(head):
    triangles, roots = hair.cap(head.template, head.triangles[head.parts == 0], head.zones[: len(head.template), EARS])
    assert triangles.max() == len(roots) - 1
    assert head.template[roots, 2].min() > 0.6
