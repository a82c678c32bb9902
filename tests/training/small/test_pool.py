import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.small.pool import (
    Pool,
    latent_face,
    other_exposure,
    pixels,
    with_noise,
)


def test_rows_are_joined_and_the_first_people_held_out(pool, shelf):
    assert pool.held_people == [0, 1, 2, 6, 7, 8] and pool.people == [3, 4, 5, 9, 10, 11]
    assert pool.held_clips == [0, 1, 2, 6, 7, 8, 9, 10, 14, 15]
    assert set(pool.owner[pool.clips].tolist()) == set(pool.people)
    assert np.array_equal(pool.clip[9].numpy(), shelf.clip[1, 1])


def test_it_follows_the_renderers_and_waits_for_the_owner(shelf):
    shelf.counts[0], shelf.counts[1] = (4, 8), (0, 0)
    pool = Pool(shelf, "cpu")
    assert pool.clips == [3] and pool.held_clips == [0, 1, 2]  # The fifth clip's owner is not whole yet.
    shelf.counts[0, 0] = 6
    pool.refresh()
    assert pool.people == [3, 4, 5] and pool.clips == [3, 4, 5]


def test_waiting_in_vain_ends_with_the_cure(shelf):
    with pytest.raises(ConsisIDError, match="6 people and 6 clips.*--stages people"):
        Pool(shelf, "cpu").wait_for(people=100, seconds=0)


def test_another_reference_is_another(pool):
    one, other = pool.two_references(200, np.random.default_rng(0))
    assert (one != other).all() and set(other.tolist()) == {0, 1, 2}


def test_pixels_and_the_face_on_the_latent_grid():
    assert pixels(torch.tensor([[[[0, 255, 0]]]], dtype=torch.uint8)).flatten().tolist() == [-1, 1, -1]
    labels = torch.zeros(1, 5, 16, 16, dtype=torch.uint8)
    labels[:, 0, :8, :8] = 1  # Skin in the first frame.
    labels[:, 1, 8:, 8:12] = 17  # Hair is no face.
    labels[:, 2:4, 8:, 8:12] = 11
    face = latent_face(labels)
    assert face.shape == (1, 2, 2, 2)
    assert face[0, 0].tolist() == [[1, 0], [0, 0]]
    assert face[0, 1].tolist() == [[0, 0], [0, 0.25]]  # Half the cell in two of four frames.


def test_white_stays_white_in_another_exposure():
    pictures = torch.rand(4, 3, 8, 8) * 2 - 1
    pictures[:, :, 0] = 1
    torch.manual_seed(0)
    changed = other_exposure(pictures)
    assert (changed[:, :, 0] == 1).all() and (changed - pictures).abs().mean() > 0.01
    assert changed.min() >= -1 and changed.max() <= 1


def test_noise_is_about_a_twentieth():
    torch.manual_seed(0)
    noise = with_noise(torch.zeros(400, 3, 8, 8)).flatten(1).std(1)
    assert 0.04 < noise.median() < 0.06
