"""Sentences and cells of a report."""

import pytest
from consisid_pack.consisid_core.evaluation.report.paper_tables import PAPER_TABLES
from consisid_pack.consisid_core.evaluation.report.summary import Summary, TrueFid, summarise
from consisid_pack.consisid_core.evaluation.report.wording import beside, notes_of, number, paper_table, summary_table

NETS = {"pack": "buffalo_l", "curricular_face": None, "inception": None, "clip": None, "stand_ins": []}


def result(**figures):
    return {
        "system": "one", "frames": 4, "frames_without_face": 1, "face_sim_arc": 0.5, "face_sim_cur": None,
        "clip_score": None, "fid": None, "prompt_cut": False, **figures,
    }  # fmt: skip


def test_cells_name_their_n_only_where_it_is_another():
    results = [result(clip_score=20.0), result(face_sim_arc=0.7), {"system": "one", "error": "x"}]
    head, rows = summary_table(summarise(results, "strict", None), "strict")
    assert head == ["system", "n", "missing", "frames without a face", "FaceSim-Arc", "CLIPScore"]
    assert rows == [["one", "2", "1", "25.0%", "0.600 ± 0.100", "20.00 (n = 1)"]]
    assert number(None, 2) == "–"


def test_notes_warn_of_what_limits_the_figures():
    summary = summarise([result(prompt_cut=True)], "strict", None)
    notes = notes_of(summary, {**NETS, "stand_ins": ["a", "b"]}, "strict")
    assert notes[0] == "Demo weights, no real measure: a, b."
    assert "Not measured: FaceSim-Cur, CLIPScore, FID." in notes
    assert notes[-1].startswith("1 prompts are longer")
    few, many = ([Summary("one", [], {}, TrueFid(1.0, photos, 5000))] for photos in (2047, 2048))
    assert any(note.startswith("Warning: below 2048") for note in notes_of(few, NETS, "strict"))
    assert not any(note.startswith("Warning") for note in notes_of(many, NETS, "strict"))


@pytest.mark.parametrize(
    "protocol, nets, words",
    [
        ("strict", NETS, "measured otherwise"),
        ("paper", NETS, "They compare only where people, photos and prompts are the same"),
        ("paper", {**NETS, "pack": "antelopev2"}, "but by other nets"),
        ("paper", {**NETS, "stand_ins": ["demo"]}, "but by other nets"),
    ],
)
def test_own_figures_beside_the_papers(protocol, nets, words):
    assert words in beside(protocol, nets)


def test_paper_tables_are_printed_as_in_the_paper():
    for table in PAPER_TABLES:
        head, rows = paper_table(table)
        assert {len(row) for row in rows} == {len(head)}
    assert paper_table(PAPER_TABLES[0])[1][0] == ["ID-Animator", "0.32", "0.33", "24.97", "117.46"]
    assert paper_table(PAPER_TABLES[2])[1][-1] == ["g: high only, before attention", "unstable", "–", "–", "–"]
    assert paper_table(PAPER_TABLES[3])[1][0][-1] == "50"
