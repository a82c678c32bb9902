"""Graphs that compare videos run whichever version of ComfyUI they were made with."""

import numpy as np
import pytest
from helpers.served import demo


@pytest.fixture
def compare(served):
    """The table of a graph whose videos come in under these names."""

    def run(*names):
        photo, models = ["1", 0], ["2", 0]
        pack = {"insightface_pack": "consisid_demo", "provider": "CPU"}
        nets = dict.fromkeys(("curricular_face", "inception", "clip"), "none")
        settings = {"names": "", "prompt": "", "protocol": "strict", "plot_theme": "dark"}
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": "portrait.png"}},
            "2": {"class_type": "ConsisIDEvaluationModelsLoader", "inputs": {**pack, **nets}},
            "3": {
                "class_type": "ConsisIDCompareVideos",
                "inputs": {"evaluation_models": models, "reference": photo, **settings, **dict.fromkeys(names, photo)},
            },
        }
        outputs, _ = served.outputs(graph)
        return served.pictures(outputs["3"])[0]

    return run


def test_numbered_and_growing_inputs_are_taken(compare):
    numbered = compare("video_1", "video_2", "video_4")
    np.testing.assert_array_equal(compare("videos.video_1", "videos.video_2", "videos.video_4"), numbered)
    assert compare("video_1", "video_2").shape != numbered.shape


def test_an_input_of_either_kind_is_not_lost(compare):
    with pytest.raises(demo.UserError, match="connected to inputs of the same name.* Disconnect one"):
        compare("video_1", "videos.video_1", "videos.video_2")


def test_one_video_is_nothing_to_compare(compare):
    with pytest.raises(demo.UserError, match="Compare Videos got 1 videos. Connect two"):
        compare("video_2")
