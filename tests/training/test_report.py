"""The report counts, names and cuts."""

import json

from consisid_pack.consisid_core.training.report import write_report

CLIP = {"key": "k", "name": "a.mp4", "person": "anna", "mask_source": "parsing", "inside": 1, "outside": 0}


def test_report(tmp_path):
    results = [
        {"name": "a.mp4", "clips": [CLIP, {**CLIP, "name": "a.mp4 #2", "mask_source": "given"}], "notes": ["It is ä."]},
        *({"name": f"{i}.mp4", "kind": "too short", "refused": "it is."} for i in range(25)),
        {"name": "b.mp4", "kind": "unreadable", "error": "cannot be read."},
    ]
    shown = write_report(tmp_path, results, missing=2)
    whole = (tmp_path / "report.txt").read_text(encoding="utf-8")
    assert shown.startswith("2 clips of 1 people, from 1 of 29 videos.\nMasks: 1 given, 1 parsing.\n2 videos are not")
    assert "Refused: 26 (25 too short, 1 unreadable)." in shown and "  a.mp4: It is ä." in shown
    assert "  and 6 more in report.txt" in shown and "b.mp4" not in shown
    assert "  b.mp4: cannot be read." in whole and "more in" not in whole
    facts = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (facts["videos"], facts["clips"], facts["people"], facts["missing"]) == (29, 2, 1, 2)
    assert facts["refused"] == {"too short": 25, "unreadable": 1} and facts["results"] == results
