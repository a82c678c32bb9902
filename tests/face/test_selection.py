"""Which of several faces is meant."""

import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.selection import SELECTIONS, choose_face, order_faces
from helpers.faces import FRIENDS, POKER, name_of


@pytest.mark.parametrize(
    "selection, expected",
    [
        ("largest", ["leopard", "black_top"]),
        ("most_central", ["curls", "black_top", "long_hair", "leopard", "sunglasses"]),
        ("left_to_right", ["sunglasses", "long_hair", "curls", "black_top", "leopard"]),
        ("right_to_left", ["leopard", "black_top", "curls", "long_hair", "sunglasses"]),
        ("top_to_bottom", ["sunglasses", "curls", "long_hair", "leopard", "black_top"]),
        ("highest_score", ["black_top", "leopard"]),
    ],
)
def test_selection_orders_the_friends(friends, friends_faces, selection, expected):
    ordered = order_faces(friends_faces, selection, friends.shape[:2])
    chosen = [choose_face(ordered, i) for i in range(5)]
    assert sorted(map(friends_faces.index, chosen)) == list(range(5))
    assert [name_of(face, FRIENDS) for face in chosen[: len(expected)]] == expected


@pytest.mark.parametrize(
    "selection, index, expected",
    [
        ("largest", 0, "dealer"),
        ("most_central", 0, "dealer"),
        ("most_central", 1, "red_shirt"),
        ("left_to_right", 1, "leaning"),
        ("right_to_left", 0, "right"),
        ("top_to_bottom", 0, "standing"),
        ("highest_score", 0, "red_shirt"),
    ],
)
def test_selection_at_the_poker_table(poker, poker_faces, selection, index, expected):
    ordered = order_faces(poker_faces, selection, poker.shape[:2])
    assert name_of(choose_face(ordered, index), POKER) == expected


def test_every_selection_is_tested_and_order_of_detection_does_not_matter(friends, friends_faces):
    for selection in SELECTIONS:
        first = order_faces(friends_faces, selection, friends.shape[:2])[0]
        assert order_faces(friends_faces[::-1], selection, friends.shape[:2])[0] is first


def test_selection_errors(friends_faces, astronaut_face):
    for index in (5, -1):
        with pytest.raises(ConsisIDError, match=f"face_index {index} .* 5 faces.* below 5"):
            choose_face(friends_faces, index)
    with pytest.raises(ConsisIDError, match="face_index 1 .* 1 face,"):
        choose_face([astronaut_face], 1)
    with pytest.raises(ConsisIDError, match="prettiest.*largest, most_central"):
        order_faces(friends_faces, "prettiest", (667, 1000))
