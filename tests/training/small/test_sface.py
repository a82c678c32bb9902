import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.small.sface import Recogniser, recogniser_crops
from helpers.face_packs import DETECTOR_FILE, RECOGNISER_FILE


@pytest.fixture(scope="module")
def recogniser(pack):
    return Recogniser(pack / RECOGNISER_FILE).eval()


def test_equals_onnxruntime(recogniser, pack):
    import onnxruntime

    pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, 112, 112)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(pack / RECOGNISER_FILE), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    expected = np.concatenate([session.run(None, {name: picture[None]})[0] for picture in pixels])
    with torch.no_grad():
        found = recogniser(torch.from_numpy(pixels)).numpy()
    assert found.shape == (2, 512)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_gradients_reach_the_pixels(recogniser):
    pixels = torch.full((1, 3, 112, 112), 100.0, requires_grad=True)
    recogniser(pixels).square().sum().backward()
    assert pixels.grad.abs().max() > 0


def test_crops_equal_the_face_paths():
    import cv2
    from insightface.utils import face_align

    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8), (128, 128), interpolation=cv2.INTER_CUBIC)
    landmarks = np.array([[45, 50], [80, 54], [62, 70], [47, 88], [76, 91]], np.float32)
    expected = face_align.norm_crop(picture, landmark=landmarks, image_size=112)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    found = recogniser_crops(pixels, torch.from_numpy(landmarks)[None])[0].permute(1, 2, 0).numpy()
    inside = np.s_[20:-20, 20:-20]
    assert np.abs(found[inside] - expected[inside]).mean() < 1.5


def test_another_net_is_refused(pack, tmp_path):
    with pytest.raises(ConsisIDError, match="layers that training cannot follow.*Take the face pack with SFace"):
        Recogniser(pack / DETECTOR_FILE)
    with pytest.raises(ConsisIDError, match=r"none\.onnx cannot be read"):
        Recogniser(tmp_path / "none.onnx")
