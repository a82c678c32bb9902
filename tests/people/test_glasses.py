import numpy as np
import pytest
from consisid_pack.consisid_core.people import glasses
from consisid_pack.consisid_core.people.head import EARS
from consisid_pack.consisid_core.people.head_data import BONES


@pytest.mark.parametrize("squareness", [2.0, 4.0])
def test_sit_before_the_eyes(head, people, squareness):
    for person in people[:4]:
        face = person.rest.vertices[head.is_skin & (head.zones[: len(head.template), EARS] < 0.2)]
        eye = person.rest.bones[BONES.index("eye.L")]
        worn = glasses.fit(face, eye, 0.022, squareness)
        assert worn.shape == (len(glasses.SPOTS), 3) and np.isfinite(worn).all()
        np.testing.assert_allclose(worn[:, 0].max(), -worn[:, 0].min(), atol=2e-3)
        rims = worn[:200]
        eyes = person.rest.vertices[head.landmarks[:2]]
        assert rims[:, 1].max() < eyes[:, 1].min()  # before the pupils
        assert abs(rims[:, 2].mean() - eye[2]) < 0.005
        assert np.ptp(worn[:, 1]) > 0.07  # The temples reach back to the ears.


def test_triangles_have_two_sides():
    both = {tuple(sorted(triangle)) for triangle in glasses.TRIANGLES.tolist()}
    assert len(glasses.TRIANGLES) == 2 * len(both)
    assert glasses.TRIANGLES.max() == len(glasses.SPOTS) - 1
