import hashlib

import numpy as np
import pytest
from consisid_pack.consisid_core.training.small import producer
from consisid_pack.consisid_core.training.small.producer import Order, fill_row
from consisid_pack.consisid_core.training.small.shelf import Extent, Shelf
from consisid_pack.consisid_core.training.small.words import Vocabulary, every_caption
from helpers.face_packs import RECOGNISER_FILE
from helpers.people import head_file


@pytest.fixture(scope="module")
def order(pack, tokenizer):
    tokens = Vocabulary.of_captions(tokenizer, every_caption()[:500]).tokens
    return Order(pack / RECOGNISER_FILE, tokenizer, tuple(tokens), seed=3, head_data=head_file())


@pytest.fixture(scope="module")
def extent(sizes):
    return Extent.of(sizes, rows=1, people=3, clips=2)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, order, extent):
    folder = tmp_path_factory.mktemp("shelf")
    shelf = Shelf(folder, extent)
    fill_row(folder, 0, order)
    return shelf


def digest(shelf):
    return hashlib.sha256(
        b"".join(getattr(shelf, n).tobytes() for n in ("clip", "reference", "facts", "text"))
    ).digest()


def test_a_row_is_filled(filled):
    assert filled.is_full(0) and filled.owner[0].tolist() == [0, 1]
    corners, middle = filled.reference[..., 0, 0, :], filled.reference[..., 16, 16, :]
    assert (corners > 250).all() and (middle < 245).any(-1).all()  # A face on white.
    assert (filled.labels[0, 0] == 1).any() and (filled.crop_labels[0] == 1).mean() > 0.1
    assert np.isfinite(filled.facts).all() and filled.facts.std() > 0.1
    assert (filled.text[0, :, 0, 0] > 2).all()


def test_photos_of_a_person_are_alike_to_the_recogniser(filled):
    photos = filled.embedding[0] / np.linalg.norm(filled.embedding[0], axis=-1, keepdims=True)
    cosines = np.einsum("pid,qjd->pqij", photos, photos)
    same = np.mean([cosines[p, p, i, j] for p in range(3) for i in range(3) for j in range(3) if i != j])
    other = np.mean([cosines[p, q] for p in range(3) for q in range(3) if p != q])
    assert same > other + 0.15


def test_a_stopped_row_goes_on_with_the_same_bytes(filled, tmp_path, order, extent, monkeypatch):
    Shelf(tmp_path, extent)
    add_clip = producer._Maker.add_clip

    def stop(self, number):
        if number == 1:
            raise KeyboardInterrupt
        add_clip(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(producer._Maker, "add_clip", stop)
        with pytest.raises(KeyboardInterrupt):
            fill_row(tmp_path, 0, order)
    assert Shelf(tmp_path).counts[0].tolist() == [3, 1]
    fill_row(tmp_path, 0, order)
    assert digest(Shelf(tmp_path)) == digest(filled)
