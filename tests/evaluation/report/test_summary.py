"""Scores by system."""

from consisid_pack.consisid_core.evaluation.report.summary import summarise


def test_summary_of_one_video_has_no_error_of_the_mean():
    result = {"system": "one", "frames": 2, "frames_without_face": 1, "face_sim_arc": 0.25, "face_sim_cur": None}
    (summary,) = summarise([{**result, "clip_score": 20.0}], "strict", None)
    assert (summary.scores["face_sim_arc"].mean, summary.scores["face_sim_arc"].standard_error) == (0.25, None)
    assert summary.scores["face_sim_cur"] is None
    assert (summary.faceless, summary.missing) == (0.5, 0)
