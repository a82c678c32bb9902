"""The plots of a report's page."""

import base64
import re
import xml.etree.ElementTree as ElementTree

import pytest
from consisid_pack.consisid_core.evaluation.plots import THEMES
from consisid_pack.consisid_core.evaluation.protocol import mean_score
from consisid_pack.consisid_core.evaluation.report.charts import as_data_uris, course_plot, distribution_plot

NAME = "<b>100% & _$x$</b>"


def system(*courses):
    results = [{"face_sim_arc": sum(course) / len(course), "cosines_arc": course} for course in courses]
    mean = mean_score([result["face_sim_arc"] for result in results])
    return results, {"face_sim_arc": mean, "face_sim_cur": None}


@pytest.mark.parametrize("draw", [distribution_plot, course_plot])
def test_charts_are_pictures_in_both_themes_with_names_as_they_are(draw):
    systems = {NAME: system([0.5, 0.7], [0.9]), "한국어": system([0.1, 0.2, 0.3])}
    uris = as_data_uris(draw, systems, "strict")
    assert uris == as_data_uris(draw, systems, "strict")
    assert uris.keys() == THEMES.keys()
    for name, theme in THEMES.items():
        head, _, content = uris[name].partition(",")
        assert head == "data:image/svg+xml;base64"
        svg = base64.b64decode(content).decode()
        assert theme.background in svg
        texts = [text.strip() for text in ElementTree.fromstring(svg).itertext()]
        assert any(NAME in text for text in texts) and any("한국어" in text for text in texts)
        assert not re.search("<b>", svg)


def test_frames_without_a_face_count_as_the_protocol_has_it():
    courses = {"strict": 0.0, "paper": None}
    for protocol, expected in courses.items():
        results, scores = system([0.5, 0.6])
        results[0]["cosines_arc"] = [0.5, None]
        figure = course_plot({"one": (results, scores)}, protocol, THEMES["dark"])
        last = figure.axes[0].lines[0].get_ydata()[-1]
        assert (last == 0) if expected == 0 else last != last
