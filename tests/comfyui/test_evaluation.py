"""Measuring inside ComfyUI: nets that are unloaded and come back, and cancel."""

import comfy.model_management
import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.comfyui.evaluation import load_evaluation_models
from consisid_pack.consisid_core.evaluation.nets.clip_score import ClipScorer
from consisid_pack.consisid_core.face.detector import FaceDetector
from helpers.pictures import frames

PROMPT = "a man talks"


@pytest.fixture(scope="module")
def man():
    """[5, 360, 640, 3]"""
    pictures = np.stack(list(frames("single_face.mp4", range(0, 60, 12)).values()))
    return torch.from_numpy(pictures).float() / 255


@pytest.fixture(scope="module")
def models(pack, models_dir):
    folder = models_dir / "consisid" / pack.name
    curricular_face = folder / "glint360k_curricular_face_r101_backbone.bin"
    return load_evaluation_models(pack, "CPU", curricular_face, clip=folder / "clip-vit-base-patch32")


def test_nets_come_back_after_comfyui_has_unloaded_them(run_node, models, man):
    inputs = {"evaluation_models": models, "video": man[:2], "reference": man[:1]}
    before = run_node("ConsisIDIdentityScore", **inputs)
    comfy.model_management.unload_all_models()
    assert models.detector.model.detector is None or not comfy.model_management.current_loaded_models
    after = run_node("ConsisIDIdentityScore", **inputs)
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])


@pytest.fixture
def looks(monkeypatch):
    """Frames that nets have looked at. The user cancels in the middle of the one whose number is put into `stop_at`."""

    class Looks(list):
        stop_at = None

        def count(self, name):
            self.append(name)
            if len(self) == self.stop_at:
                comfy.model_management.interrupt_current_processing()

    result = Looks()
    for owner, method in ((FaceDetector, "look"), (ClipScorer, "_values")):
        original = getattr(owner, method)

        def counted(*args, original=original, method=method):
            result.count(method)
            return original(*args)

        monkeypatch.setattr(owner, method, counted)
    return result


@pytest.mark.parametrize(
    "node, stop_at, expected",
    [
        ("ConsisIDIdentityScore", 3, ["look"] * 3),  # of the reference and five frames
        ("ConsisIDTextScore", 2, ["_values"] * 2),  # of 40 frames in batches of 16
        ("ConsisIDFrequencySpectrum", 2, ["look"] * 2),
        ("ConsisIDCompareVideos", 8, ["look"] * 6 + ["_values", "look"]),  # the second video's reference, and a frame
    ],
)
def test_cancel_stops_in_the_middle(run_node, models, man, looks, node, stop_at, expected):
    inputs = {
        "ConsisIDIdentityScore": {"video": man, "reference": man[:1]},
        "ConsisIDTextScore": {"video": man.repeat(8, 1, 1, 1), "prompt": PROMPT},
        "ConsisIDFrequencySpectrum": {"images": man},
        "ConsisIDCompareVideos": {"video_1": man, "video_2": man, "reference": man[:1], "prompt": PROMPT},
    }[node]
    looks.stop_at = stop_at
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run_node(node, evaluation_models=models, **inputs)
    assert looks[:stop_at] == expected and len(looks) <= stop_at + 1
    # Nothing is left of it.
    looks.stop_at = None
    run_node("ConsisIDTextScore", evaluation_models=models, video=man[:1], prompt=PROMPT)
