import pytest
from consisid_pack.consisid_core.people.head import Head
from consisid_pack.consisid_core.people.renderer import Renderer
from helpers.people import head_file, person_of


@pytest.fixture(scope="session")
def head():
    return Head.load(head_file())


@pytest.fixture(scope="session")
def renderer(head):
    return Renderer(head, 96, 96)


@pytest.fixture(scope="session")
def people(head):
    """Eight people."""
    return [person_of(head, seed) for seed in range(8)]
