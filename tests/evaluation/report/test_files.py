"""What a run's report says, in each of its files."""

import pytest
from helpers.evaluation import HOSTILE, ROWS, Page, read_csv, read_lines, run, write_manifest


def test_summary_is_the_mean_over_videos(scored):
    lines, rows = read_lines(scored), read_csv(scored)
    for system in ("ours", HOSTILE):
        own = [line for line in lines if line["system"] == system]
        values = [line["face_sim_arc"] for line in own if "error" not in line]
        row = rows[system]
        assert (int(row["videos"]), int(row["missing"])) == (len(own), len(own) - len(values))
        assert float(row["face_sim_arc_mean"]) == sum(values) / len(values)
        assert float(row["face_sim_arc_standard_error"]) == pytest.approx(abs(values[0] - values[1]) / 2, rel=1e-12)
        assert int(row["face_sim_arc_n"]) == len(values) == 2
        frames = sum(line["frames"] for line in own if "error" not in line)
        empty = sum(line["frames_without_face"] for line in own if "error" not in line)
        assert float(row["share_of_frames_without_face"]) == empty / frames
        assert row["face_sim_cur_mean"] == row["clip_score_mean"] == row["true_fid"] == ""
    assert list(rows) == ["ours", HOSTILE]  # The higher likeness first.
    mean, error = (float(rows["ours"][f"face_sim_arc_{name}"]) for name in ("mean", "standard_error"))
    cell = f"{mean:.3f} ± {error:.3f}"
    for name in ("summary_strict.md", "report_strict.html"):
        assert cell in (scored / "evaluation" / name).read_text(encoding="utf-8")
    assert cell.replace("±", r"$\pm$") in (scored / "evaluation/table_strict.tex").read_text(encoding="utf-8")


def test_nothing_scored_gives_a_report_all_the_same(run_dir, comfyui):
    write_manifest(run_dir, [ROWS[4], ROWS[5]])
    assert run(run_dir, comfyui) == 1
    page = Page(run_dir / "evaluation/report_strict.html")
    assert "img" not in [tag for tag, _ in page.elements]
    row = read_csv(run_dir)["ours"]
    assert (row["videos"], row["missing"], row["face_sim_arc_mean"]) == ("2", "2", "")
