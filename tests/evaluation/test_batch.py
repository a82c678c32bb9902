"""Real clips scored with the stand-in pack: interrupted, changed, renamed."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from consisid_pack.consisid_core.evaluation.nets import fid
from helpers.evaluation import (
    FAILED,
    HOSTILE,
    RECOGNISER,
    ROWS,
    read_csv,
    read_lines,
    results_files,
    run,
    start,
    wait_for_lines,
    write_manifest,
)
from helpers.processes import SECONDS
from PIL import Image


def test_every_row_has_its_line(scored):
    lines = read_lines(scored)
    assert [(line["video"], line["system"], line["seed"]) for line in lines] == [(r[0], r[3], r[4]) for r in ROWS]
    assert [line["prompt"] for line in lines] == [r[2] for r in ROWS]
    assert ["error" in line for line in lines] == [False] * (len(ROWS) - FAILED) + [True] * FAILED
    missing, corrupt, faceless = (line["error"] for line in lines[-FAILED:])
    assert missing == "The video ours/missing.mp4 does not exist."
    assert "ours/corrupt.mp4 cannot be read" in corrupt
    assert "No face found in reference photo 1 of 1" in faceless
    first = lines[0]
    assert first["models"] == {
        "pack": "demo", "curricular_face": None, "inception": None, "clip": None, "stand_ins": ["demo"],
    }  # fmt: skip
    assert first["positions"] == list(range(6))
    assert first["face_sim_arc"] == pytest.approx(np.mean(first["cosines_arc"]), abs=1e-4)
    error = np.std(first["cosines_arc"], ddof=1) / 6**0.5
    assert first["face_sim_arc_standard_error"] == pytest.approx(error, abs=1e-4)
    assert first["face_sim_arc"] > 0.8
    empty = lines[2]
    assert empty["frames_without_face"] == 2
    assert empty["cosines_arc"][-2:] == [None, None]
    assert empty["face_sim_arc"] < 0.2


def test_protocols_never_mix(scored):
    strict, paper = read_lines(scored, "strict"), read_lines(scored, "paper")
    assert {line["protocol"] for line in strict} == {"strict"}
    assert {line["protocol"] for line in paper} == {"paper"}
    assert {line["frames"] for line in paper if "frames" in line} == {16}
    assert "compares with one photo" in paper[3]["error"]  # Two photos are for the strict protocol.
    assert not {line["key"] for line in strict} & {line["key"] for line in paper}
    for protocol, other in (("strict", "paper"), ("paper", "strict")):
        rows = read_csv(scored, protocol).values()
        assert {row["protocol"] for row in rows} == {protocol}
        for name in (f"summary_{protocol}.md", f"table_{protocol}.tex", f"report_{protocol}.html"):
            text = (scored / "evaluation" / name).read_text(encoding="utf-8")
            assert f"Protocol {protocol}:" in text
            assert f"Protocol {other}:" not in text
            assert "Demo weights, no real measure: demo." in text
            assert "insightface pack demo" in text


def test_second_run_computes_only_what_changed(scored, comfyui, tmp_path, capsys):
    folder = shutil.copytree(scored, tmp_path / "run", copy_function=shutil.copy2)
    before = read_lines(folder)
    page = (folder / "evaluation/report_strict.html").read_bytes()
    assert run(folder, comfyui) == 1
    after = read_lines(folder)
    assert after[: len(before)] == before
    # Only what had failed is tried again, and the report stays as it was.
    assert [line["video"] for line in after[len(before) :]] == [row[0] for row in ROWS[-FAILED:]]
    assert (folder / "evaluation/report_strict.html").read_bytes() == page

    shutil.copy(folder / "ours/b.mp4", folder / "ours/a.mp4")  # Another video under the same name.
    shutil.copy(folder / "ours/b.mp4", folder / "ours/missing.mp4")
    Image.open(folder / "photo.png").save(folder / "landscape.png")
    rows = [row for row in ROWS if "corrupt" not in row[0]]
    rows[1] = (*rows[1][:3], "renamed", rows[1][4])
    rows[2] = (*rows[2][:2], "Another prompt", *rows[2][3:])
    write_manifest(folder, rows)
    capsys.readouterr()
    assert run(folder, comfyui) == 0
    again = read_lines(folder)[len(after) :]
    assert [line["video"] for line in again] == ["ours/a.mp4", "theirs/a.mp4", "ours/missing.mp4", "ours/a.mp4"]
    assert again[0]["cosines_arc"] == before[1]["cosines_arc"]
    summary = read_csv(folder)
    assert float(summary["renamed"]["face_sim_arc_mean"]) == before[1]["face_sim_arc"]
    assert summary["renamed"]["face_sim_arc_standard_error"] == ""
    assert "6 of 6 videos have their scores" in capsys.readouterr().out


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_run_goes_on(run_dir, scored, comfyui, how):
    process = start(run_dir, comfyui)
    wait_for_lines(run_dir, 1, process)
    process.send_signal(how)
    out, err = process.communicate(timeout=SECONDS)
    assert "Traceback" not in err
    assert "0.0/7 videos" in err
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the next run goes on" in err
    kept = [json.dumps(line) for line in read_lines(run_dir)]
    assert 1 <= len(kept) < len(ROWS)
    # What a kill in the middle of a write leaves behind.
    (file,) = results_files(run_dir)
    with open(file, "a", encoding="utf-8") as stream:
        stream.write('{"key": "0123456789abcdef", "video": "ours/b.m')
    assert run(run_dir, comfyui) == 1
    lines = read_lines(run_dir)
    assert [json.dumps(line) for line in lines[: len(kept)]] == kept
    assert len(lines) == len(ROWS)
    assert lines == read_lines(scored)  # Of a copy, with other dates.
    for name in ("summary_strict.md", "summary_strict.csv", "table_strict.tex", "report_strict.html"):
        assert (run_dir / "evaluation" / name).read_bytes() == (scored / "evaluation" / name).read_bytes()


def test_all_scores_of_both_protocols(run_dir, full_comfyui, capsys):
    rows = [row for row in ROWS[:4] if ";" not in row[1]]
    rows.append(("ours/b.mp4", "astronaut.png", "", "ours", "9"))
    write_manifest(run_dir, rows)
    assert run(run_dir, full_comfyui) == 0
    out = capsys.readouterr().out
    assert "left out" not in out
    lines, summary = read_lines(run_dir), read_csv(run_dir)
    assert lines[0]["models"]["clip"] == "clip-vit-base-patch32"
    assert lines[0]["models"]["curricular_face"] == Path(RECOGNISER).name
    assert lines[0]["models"]["stand_ins"] == ["demo", "clip-vit-base-patch32"]
    likeness = [line["face_sim_cur"] for line in lines if line["system"] == "ours"]
    assert float(summary["ours"]["face_sim_cur_mean"]) == pytest.approx(np.mean(likeness), rel=1e-12)
    scores = [line["clip_score"] for line in lines]
    assert scores[-1] is None  # It has no prompt.
    assert float(summary["ours"]["clip_score_mean"]) == (scores[0] + scores[1]) / 2
    assert int(summary["ours"]["clip_score_n"]) == 2
    assert "(n = 2)" in (run_dir / "evaluation/summary_strict.md").read_text(encoding="utf-8")

    kept = [np.load(run_dir / "evaluation" / line["features"]) for line in lines if line["system"] == "ours"]
    assert [features["faces"].shape for features in kept] == [(6, 2048), (5, 2048), (5, 2048)]
    # photo.png was used twice and counts once.
    photos = np.concatenate([kept[0]["photos"], kept[2]["photos"]])
    faces = np.concatenate([features["faces"] for features in kept])
    assert float(summary["ours"]["true_fid"]) == fid.frechet_distance(photos, faces)
    assert (summary["ours"]["true_fid_faces"], summary["ours"]["true_fid_photos"]) == ("16", "2")
    assert summary[HOSTILE]["true_fid"] == ""  # One photo is no set.
    page = (run_dir / "evaluation/report_strict.html").read_text(encoding="utf-8")
    assert "below 2048 pictures in either set FID depends on their number" in page

    # Without its features a video cannot enter the FID again.
    write_manifest(run_dir, rows[:2])
    (run_dir / "evaluation" / lines[1]["features"]).unlink()
    assert run(run_dir, full_comfyui) == 0
    assert read_lines(run_dir)[len(rows) :] == [lines[1]]
    assert (run_dir / "evaluation" / lines[1]["features"]).is_file()

    assert run(run_dir, full_comfyui, "--protocol", "paper") == 0
    lines, summary = read_lines(run_dir, "paper"), read_csv(run_dir, "paper")
    distances = [line["fid"] for line in lines if line["system"] == "ours"]
    assert min(distances) > 0
    assert float(summary["ours"]["paper_fid_mean"]) == np.mean(distances)
    assert "true_fid" not in summary["ours"]
    text = (run_dir / "evaluation/summary_paper.md").read_text(encoding="utf-8")
    assert "squared distance of single pictures, no Fréchet distance of sets" in text
    assert "paper's FID" in text
