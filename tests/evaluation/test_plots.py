"""Plots of scores: what stands in them, on the background of their theme."""

import numpy as np
import pytest
from consisid_pack.consisid_core.evaluation.face_similarity import FaceSimilarity, Frame
from consisid_pack.consisid_core.evaluation.models import EvaluationModels
from consisid_pack.consisid_core.evaluation.plots import THEMES, comparison_table, picture, similarity_plot
from consisid_pack.consisid_core.evaluation.scores import VideoScores

MODELS = EvaluationModels(None, "a pack", stand_ins=("a pack",))


def scores(*cosines):
    """Of a video with these cosines; its best and worst frame are plain green and plain red."""
    frames = [np.full((8, 8, 3), color, np.uint8) for color in ((0, 200, 0), (200, 0, 0))]
    arc = np.array(cosines, np.float64)
    best = worst = None
    if not np.isnan(arc).all():
        best, worst = (
            Frame(int(i), float(arc[i]), frame)
            for i, frame in zip((np.nanargmax(arc), np.nanargmin(arc)), frames, strict=True)
        )
    return VideoScores(FaceSimilarity("strict", np.arange(len(arc)), arc, None, None, None, best, worst), None)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in (axes.title, axes._left_title, *axes.texts)]


@pytest.mark.parametrize("theme", THEMES)
def test_best_and_worst_frame_stand_beside_the_curve(theme):
    figure = similarity_plot(scores(0.5, np.nan, 0.9, 0.25), MODELS, THEMES[theme])
    assert {"best: frame 2, 0.90", "worst: frame 3, 0.25"} <= set(texts(figure))
    assert figure.get_supxlabel() == "Demo weights, no real measure: a pack"
    pixels = picture(figure)
    assert pixels.shape == (520, 1200, 3) and pixels.dtype == np.uint8
    assert "#" + bytes(pixels[2, 2]).hex() == THEMES[theme].background
    for color in ((0, 200, 0), (200, 0, 0)):
        assert (pixels == color).all(axis=-1).sum() > 1000


def test_a_video_without_a_face_has_a_curve_alone():
    figure = similarity_plot(scores(np.nan, np.nan), MODELS, THEMES["dark"])
    assert len(figure.axes) == 1
    assert "no face (2 frames)" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_table_leaves_out_what_no_video_has():
    figure = comparison_table([("ours", scores(0.5, 0.7)), ("theirs", scores(0.1))], MODELS, THEMES["light"])
    (table,) = figure.axes[0].tables
    cells = {place: cell.get_text().get_text() for place, cell in table.get_celld().items()}
    assert [cells[0, column] for column in range(3)] == ["video", "FaceSim-Arc", "without a face"]
    assert [cells[row, 0] for row in (1, 2)] == ["ours", "theirs"]
    assert cells[1, 1] == "0.600 ± 0.100 (n = 2)"
