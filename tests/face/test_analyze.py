"""Photos to a Face: one person or several, and what is said of which photo."""

import logging

import cv2
import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.analyze import analyze_photos
from consisid_pack.consisid_core.face.parsing import BiSeNet
from consisid_pack.consisid_core.face.photo import Photo
from helpers.pictures import resize, tight, to_images
from helpers.random_nets import randomise
from PIL import Image
from skimage import data


@pytest.fixture(scope="module")
def portrait():
    """The astronaut's face in 256x256 px."""
    return data.astronaut()[:256, 96:352]


@pytest.fixture(scope="module")
def strangers(friends):
    """Two other people, 256x256 px each, the face in the middle."""
    return [friends[y - 128 : y + 128, x - 128 : x + 128] for x, y in ((476, 267), (740, 357))]


@pytest.fixture
def analyze(detector):
    """Analyze pictures [H, W, 3] uint8 of one size: (Face, detections)."""

    def run(*pictures, selection="most_central", face_index=0, **options):
        return analyze_photos(detector, None, to_images(*pictures), selection, face_index, **options)

    return run


@pytest.fixture
def warnings_of(analyze, caplog):
    """Analyze pictures; returns the warnings about who is on them."""

    def run(*pictures):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="consisid"):
            analyze(*pictures)
        return [text for text in caplog.messages if "same person" in text or "person of the others" in text]

    return run


def test_a_face_has_the_documented_form(detector, portrait):
    parser = randomise(BiSeNet(width=4), seed=3)
    images = to_images(portrait, portrait[:, ::-1])
    face, detections = analyze_photos(detector, parser, images, "largest", 0)
    shapes = {name: list(tensor.shape) for name, tensor in vars(face).items()}
    assert shapes == {
        "embedding": [2, 512], "landmarks": [2, 5, 2], "bbox": [2, 4], "score": [2], "image": [2, 512, 512, 3],
        "gray_image": [2, 512, 512, 3], "alignment": [2, 2, 3],
    }  # fmt: skip
    for tensor in vars(face).values():
        assert tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    whole, _ = analyze_photos(detector, None, images, "largest", 0)
    assert whole != face and torch.equal(whole.embedding, face.embedding)
    changed = (face.image != whole.image).any(dim=-1)
    assert changed.any() and (face.image[changed] == 1).all() and (face.gray_image[changed] == 1).all()
    assert detections.shape == images.shape and not torch.equal(detections, images)


def test_the_number_on_a_face_is_its_index(analyze, friends):
    """Left to right: only the face with the index is drawn in yellow."""
    faces = []
    for index in range(5):
        face, detections = analyze(friends, selection="left_to_right", face_index=index)
        yellow = (detections[0] == torch.tensor([255, 205, 0]) / 255).all(dim=-1)
        x1, y1, x2, y2 = face.bbox[0].round().int().tolist()
        assert yellow[y1:y2, x1 : x2 + 1].sum() > 0.8 * yellow[y1:y2].sum() > 0
        faces.append(face.bbox[0, 0].item())
    assert faces == sorted(faces)


def test_photos_of_one_person_give_no_warning(warnings_of, portrait):
    darker = (portrait * 0.6).astype(np.uint8)
    assert warnings_of(portrait) == warnings_of(portrait, portrait[:, ::-1], darker) == []


def test_one_warning_names_every_stranger(warnings_of, portrait, strangers):
    (text,) = warnings_of(portrait, strangers[0], portrait[:, ::-1])
    assert "Of the 3 photos" in text and "photo 2 (" in text and "photo 1" not in text and "photo 3" not in text
    (text,) = warnings_of(portrait, strangers[0], portrait[:, ::-1], portrait, strangers[1])
    assert "photo 2 (" in text and "photo 5 (" in text and text.count("photo ") == 2


def test_two_photos_of_different_people_differ(warnings_of, portrait, strangers):
    (text,) = warnings_of(portrait, strangers[0])
    assert "The 2 photos differ" in text and "photo 1 (" in text and "photo 2 (" in text


def test_what_may_spoil_the_likeness_is_logged_with_the_photo(analyze, portrait, caplog):
    blurred = cv2.GaussianBlur(portrait, (0, 0), 4)
    analyze(portrait, blurred, selection="largest")
    (text,) = [text for text in caplog.messages if "blurred" in text]
    assert text.startswith("Photo 2 of 2: ")
    assert not any(text.startswith("Photo 1 of 2") for text in caplog.messages)


def test_which_of_several_faces_is_taken_is_logged(analyze, portrait, caplog):
    two = np.concatenate([portrait, portrait[:, ::-1]], axis=1)
    with caplog.at_level(logging.INFO, logger="consisid"):
        analyze(two, selection="left_to_right", face_index=1)
    assert "Photo 1 of 1 shows 2 faces: taking number 1 by left_to_right." in caplog.messages


def test_every_message_about_one_photo_names_it(analyze, detector, portrait, caplog):
    """Photos 2 and 4 of five show nothing but a face that fills the frame."""
    (face,) = detector.detect(Photo(portrait))
    hard = cv2.resize(tight(portrait, face, -0.2), (256, 256), interpolation=cv2.INTER_CUBIC)
    with caplog.at_level(logging.INFO, logger="consisid"):
        analyze(portrait, hard, portrait, hard, portrait)
    for name in ("Photo 2 of 5", "Photo 4 of 5"):
        assert f"No face found in {name}; trying a grey border of 100%." in caplog.messages
        assert any(
            text.startswith(f"A face was found only with a grey border of 100% in {name}: ") for text in caplog.messages
        )
    assert all("Photo 2 of 5" in text or "Photo 4 of 5" in text for text in caplog.messages)


def test_an_error_names_the_photo(analyze, portrait):
    with pytest.raises(ConsisIDError, match=r"^Photo 2 of 3 \(256x256\): No face found\. "):
        analyze(portrait, np.full_like(portrait, 127), portrait)
    with pytest.raises(ConsisIDError, match=r"^Photo 1 of 1 \(256x256\): face_index 1 does not exist"):
        analyze(portrait, face_index=1)
    with pytest.raises(ConsisIDError, match=r"^Photo 1 of 1 \(13x13\): The photo is 13x13 px, too small"):
        analyze(resize(portrait, 0.05))


def test_a_16_bit_photo_that_comfyui_cut_off_is_told(analyze, portrait):
    """As the Load Image of ComfyUI 0.3.75 gives it: all but black is white."""
    cut_off = np.asarray(Image.fromarray(portrait[..., 0] * np.uint16(257)).convert("RGB"))
    with pytest.raises(
        ConsisIDError, match=r"No face found\. .*16-bit greyscale file like that, so save it with 8 bits"
    ):
        analyze(cut_off)
    with pytest.raises(ConsisIDError, match=r"No face found\. ") as error:
        analyze(np.full_like(portrait, 127))
    assert "16-bit" not in str(error.value)


def test_an_empty_batch_is_refused(detector):
    with pytest.raises(ConsisIDError, match="image is an empty batch"):
        analyze_photos(detector, None, torch.zeros(0, 64, 64, 3), "largest", 0)


def test_it_is_told_of_each_photo_and_can_be_stopped(analyze, portrait):
    class Stopped(Exception):
        pass

    done = []

    def on_photo():
        done.append(True)
        if len(done) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        analyze(portrait, portrait, portrait, on_photo=on_photo)
    assert len(done) == 2
