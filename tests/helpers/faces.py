"""The people on the group pictures, and the face that is meant on a portrait."""

import numpy as np
from consisid_pack.consisid_core.face.photo import Photo

# Middle of each face, read off the pictures by hand.
FRIENDS = {
    "sunglasses": (262, 118),
    "long_hair": (363, 297),
    "curls": (476, 267),
    "black_top": (583, 370),
    "leopard": (740, 357),
}
POKER = {
    "left": (111, 333),
    "leaning": (320, 211),
    "dealer": (520, 342),
    "red_shirt": (799, 409),
    "standing": (953, 127),
    "right": (1181, 336),
}


def name_of(face, people):
    return min(people, key=lambda name: np.hypot(*np.subtract(people[name], face.center)))


def largest(detector, picture):
    """The widest face of a picture [H, W, 3] uint8."""
    return max(detector.detect(Photo(picture)), key=lambda face: face.size[0])
