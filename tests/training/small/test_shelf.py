import numpy as np
import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.small.shelf import Extent, Shelf


@pytest.fixture
def extent(sizes):
    return Extent.of(sizes, rows=2, people=3, clips=4)


def test_what_one_process_writes_another_reads(tmp_path, extent):
    first, second = Shelf(tmp_path, extent), Shelf(tmp_path)
    first.clip[1, 2] = 7
    first.counts[1] = 3, 4
    assert second.clip.shape == (2, 4, 17, 32, 32, 3) and second.text.shape == (2, 4, 2, 8)
    assert (second.clip[1, 2] == 7).all() and not second.clip[0].any()
    assert second.is_full(1) and not second.is_full(0)


def test_an_empty_folder_names_the_stage(tmp_path):
    with pytest.raises(ConsisIDError, match="holds no people yet.*--stages people"):
        Shelf(tmp_path)


def test_another_extent_is_refused_and_nothing_lost(tmp_path, extent, sizes):
    Shelf(tmp_path, extent).counts[0] = 2, 2
    with pytest.raises(ConsisIDError, match="'people': 3.*not with.*'people': 9"):
        Shelf(tmp_path, Extent.of(sizes, rows=2, people=9, clips=4))
    assert np.array_equal(Shelf(tmp_path, extent).counts[0], (2, 2))
