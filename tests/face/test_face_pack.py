"""What a user reads when a file of the face pack is missing, broken or of another kind."""

import sys

import pytest
import torch
from consisid_pack.consisid_core.dev.demo_face_pack import DETECTOR_FILE as DETECTOR
from consisid_pack.consisid_core.dev.demo_face_pack import RECOGNISER_FILE as RECOGNISER
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.detector import FaceDetector
from consisid_pack.consisid_core.face.face_pack import load_pack
from helpers.face_packs import CPU, keep_128, link, save_variant
from helpers.little_memory import sentence_for


@pytest.fixture
def offline(monkeypatch):
    """Any attempt to reach the network fails the test."""
    import socket

    def refuse(*_):
        pytest.fail("a network connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


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
        FaceDetector(folder, CPU)
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
        FaceDetector(tmp_path, CPU)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_detector_without_landmarks_is_refused(pack, tmp_path):
    def drop_landmarks(model):
        del model.graph.output[6:]

    with pytest.raises(ConsisIDError, match="gives no landmarks"):
        FaceDetector(save_variant(pack, tmp_path / "p", DETECTOR, drop_landmarks), CPU)


def test_a_recogniser_of_another_length_is_refused(pack, tmp_path):
    with pytest.raises(ConsisIDError, match="gives 128 numbers.*512"):
        FaceDetector(save_variant(pack, tmp_path / "p", RECOGNISER, keep_128), CPU)


def test_a_missing_insightface_is_named(pack, monkeypatch):
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(ConsisIDError, match="pip install insightface onnxruntime"):
        FaceDetector(pack, CPU)


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory as Linux allows")
def test_a_lack_of_memory_is_said_and_the_files_not_blamed(pack):
    imports = "import torch, insightface.app; from consisid_core.face.detector import FaceDetector"
    sentence = sentence_for(imports, f"FaceDetector({str(pack)!r}, ['CPUExecutionProvider'])", 60_000_000)
    assert f"The face models in {pack} cannot be loaded: the free memory does not suffice. Close other" in sentence


def test_nets_run_on_as_many_threads_as_pytorch(pack):
    options = [net.session.get_session_options() for net in load_pack(pack, CPU).models.values()]
    assert [option.intra_op_num_threads for option in options] == [torch.get_num_threads()] * 2
