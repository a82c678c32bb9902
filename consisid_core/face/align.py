"""Cuts a face out, upright and centred: the 512 px crop that every later step of ConsisID looks at.

The reference leaves this to facexlib 0.3.0 (`utils/face_restoration_helper.py:73-74, 234-259`), built with
`face_size=512, crop_ratio=(1, 1)` (diffusers `consisid_utils.py:312-320`).
"""

from __future__ import annotations

import numpy as np

from ..errors import ConsisIDError
from .detected_face import DetectedFace
from .face_pack import quiet
from .keypoints import map_points
from .photo import Photo

FACE_SIZE = 512
"""Width and height of the aligned crop in pixels."""

FFHQ_TEMPLATE = np.array(
    [
        [192.98138, 239.94708],  # left eye (on the left of the picture)
        [318.90277, 240.19360],  # right eye
        [256.63416, 314.01935],  # nose
        [201.26117, 371.41043],  # left corner of the mouth
        [313.08905, 371.15118],  # right corner
    ]
)
"""[5, 2] float64 (x, y): where the FFHQ alignment puts the five landmarks in a 512 px crop."""

BORDER_RGB = (132, 133, 135)
"""Fill for crop pixels that lie outside the photo. facexlib writes (135, 133, 132) into a BGR picture."""

_SMALLEST_ZOOM = 1e-3  # a face this much larger than its crop would be half a million pixels wide


def align_photo(photo: Photo, face: DetectedFace) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the chosen face out of its photo, upright and centred.

    The pixels come from the photo shrunk to 1024 px, as in the reference (`consisid_utils.py:162-170, 264-266`).

    Args:
        photo: the photo.
        face: one of its faces, in pixels of the photo as it came.

    Returns:
        crop: [512, 512, 3] uint8 RGB, grey where it leaves the photo.
        alignment: [2, 3] float32, pixels of the photo as it came -> pixels of the crop.

    Raises:
        ConsisIDError: the landmarks cannot be aligned.
    """
    matrix = estimate_alignment(map_points(photo.to_small, face.landmarks))
    alignment = matrix @ np.vstack([photo.to_small, (0, 0, 1)])
    return warp_face(photo.small, matrix), alignment.astype(np.float32)


def estimate_alignment(landmarks: np.ndarray) -> np.ndarray:
    """Finds the rotation, uniform scale and shift that bring five landmarks closest to the FFHQ template.

    Args:
        landmarks: [5, 2] (x, y) in pixels of the image that will be warped; order as in `FFHQ_TEMPLATE`.

    Returns:
        [2, 3] float64 matrix, image pixels -> crop pixels (0..512).

    Raises:
        ConsisIDError: the landmarks fall on one spot or are not numbers.
    """
    import cv2

    landmarks = np.asarray(landmarks, np.float32)
    matrix = None
    if np.isfinite(landmarks).all():
        # Least median of squares ignores one or two stray points, as a mouth corner hidden in profile.
        matrix, _ = cv2.estimateAffinePartial2D(landmarks, FFHQ_TEMPLATE, method=cv2.LMEDS)
    if matrix is None or not np.isfinite(matrix).all() or np.hypot(matrix[0, 0], matrix[1, 0]) < _SMALLEST_ZOOM:
        raise ConsisIDError(
            "The face cannot be aligned: its eyes, nose and mouth were found on one spot. "
            "Choose another face, or use a photo in which the face is larger and turned to the camera."
        )
    return matrix


def warp_face(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Cuts the aligned face out of an image.

    Args:
        image: [H, W, 3] uint8 RGB, at most 32767 px on a side (a limit of OpenCV).
        matrix: [2, 3] image pixels -> crop pixels, from `estimate_alignment`.

    Returns:
        [512, 512, 3] uint8 RGB, linearly interpolated, `BORDER_RGB` where the crop leaves the image.
    """
    import cv2

    return cv2.warpAffine(
        image,
        np.asarray(matrix, np.float64),
        (FACE_SIZE, FACE_SIZE),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=BORDER_RGB,
    )


def recogniser_crop(picture: np.ndarray, face: DetectedFace, size: int) -> np.ndarray:
    """Cuts a face out as recognisers are trained on it: closer than `align_photo`, black where it leaves the picture.

    Args:
        picture: [H, W, 3] uint8 RGB.
        face: one of its faces.
        size: width and height of the crop in pixels, a multiple of 112.

    Returns:
        [size, size, 3] uint8 RGB.
    """
    from insightface.utils import face_align

    with quiet():
        return face_align.norm_crop(picture, landmark=face.landmarks, image_size=size)
