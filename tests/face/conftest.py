"""Pictures that many tests of the face path look at, and the faces on them."""

import pytest
import skimage.data
from consisid_pack.consisid_core.face.photo import Photo
from helpers.face_nets import TINY_EVA, reference_eva
from helpers.pictures import read
from helpers.random_nets import randomise


@pytest.fixture(scope="session")
def friends():
    return read("feat", "tests/data/multi_face.jpg")


@pytest.fixture(scope="session")
def friends_faces(detector, friends):
    return detector.detect(Photo(friends))


@pytest.fixture(scope="session")
def poker():
    return read("insightface", "data/images/t1.jpg")


@pytest.fixture(scope="session")
def poker_faces(detector, poker):
    return detector.detect(Photo(poker))


@pytest.fixture(scope="session")
def astronaut():
    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def astronaut_face(detector, astronaut):
    (face,) = detector.detect(Photo(astronaut))
    return face


@pytest.fixture(scope="session")
def man():
    return read("feat", "tests/data/single_face.jpg")


@pytest.fixture(scope="session")
def man_face(detector, man):
    (face,) = detector.detect(Photo(man))
    return face


@pytest.fixture(scope="session")
def tiny_eva():
    return reference_eva(output_dim=24, **TINY_EVA)


@pytest.fixture(scope="session")
def reference_parser():
    from facexlib.parsing.bisenet import BiSeNet

    return randomise(BiSeNet(num_class=19), seed=1)  # a seed that labels half of the pixels for whitening
