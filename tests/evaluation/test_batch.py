"""`python -m consisid_core.evaluation`: real clips scored with the stand-in pack, interrupted, damaged, renamed."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.__main__ import main
from consisid_pack.consisid_core.evaluation.manifest import Row, read_manifest
from consisid_pack.consisid_core.evaluation.nets import fid
from consisid_pack.consisid_core.evaluation.nets.curricularface import CurricularFace
from consisid_pack.consisid_core.evaluation.report.paper_tables import PAPER_TABLES, WARNING
from consisid_pack.consisid_core.evaluation.report.summary import summarise
from helpers import ROOT
from helpers.pictures import package_file
from helpers.weights_command import environment
from PIL import Image
from torchvision.models import Inception3

PROMPT = 'A woman, "talking", in a\nbright room.'
HOSTILE = "<b>A&B</b> | 100%_$x$ \\ \"q\" 'p' #1 ~^{}"
RECOGNISER = "ConsisID-preview/face_encoder/glint360k_curricular_face_r101_backbone.bin"
PAPER_INCEPTION = "inception_v3_google-0cc3c7bd.pth"
TRUE_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
# A second system whose person is there in two thirds of the frames, and another person than in the photo.
ROWS = [
    ("ours/a.mp4", "photo.png", PROMPT, "ours", "1"),
    ("ours/b.mp4", "photo.png", PROMPT, "ours", "2"),
    ("theirs/a.mp4", "astronaut.png", PROMPT, HOSTILE, "1"),
    ("theirs/b.mp4", "photo.png;astronaut.png", "", HOSTILE, "2"),
    ("ours/missing.mp4", "photo.png", PROMPT, "ours", "3"),
    ("ours/corrupt.mp4", "photo.png", PROMPT, "ours", "4"),
    ("ours/a.mp4", "landscape.png", PROMPT, "ours", "5"),
]
FAILED = 3


def read_frames(name, start, count, step=1):
    capture = cv2.VideoCapture(str(package_file("feat", f"tests/data/{name}")))
    capture.set(cv2.CAP_PROP_POS_FRAMES, start)
    frames = [capture.read()[1] for _ in range(count * step)]
    return [cv2.resize(frame, (480, 270)) for frame in frames[::step]]


def write_clip(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 8, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()


def write_manifest(folder, rows=ROWS):
    with open(folder / "manifest.csv", "w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("video", "reference", "prompt", "system", "seed"))
        writer.writerows(rows)


def read_lines(folder, protocol="strict"):
    text = (folder / f"evaluation/results_{protocol}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def read_csv(folder, protocol="strict"):
    with open(folder / f"evaluation/summary_{protocol}.csv", encoding="utf-8", newline="") as stream:
        return {row["system"]: row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def comfyui(pack, tmp_path_factory):
    root = tmp_path_factory.mktemp("ComfyUI")
    shutil.copytree(pack, root / "models/insightface/models/demo")
    return root


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "ours/a.mp4", read_frames("single_face.mp4", 0, 6))
    write_clip(folder / "ours/b.mp4", read_frames("single_face.mp4", 40, 5))
    # No package has a clip of a second person in which some frames are empty: these frames are put together.
    write_clip(
        folder / "theirs/a.mp4", read_frames("single_face.mp4", 10, 4) + read_frames("no_face.mp4", 0, 2, step=20)
    )
    write_clip(folder / "theirs/b.mp4", read_frames("face_noface.mov", 0, 6, step=20))
    (folder / "ours/corrupt.mp4").write_bytes((folder / "ours/a.mp4").read_bytes()[:3000])
    Image.fromarray(read_frames("single_face.mp4", 5, 1)[0][..., ::-1]).save(folder / "photo.png")
    Image.fromarray(skimage.data.astronaut()).save(folder / "astronaut.png")
    Image.fromarray(read_frames("no_face.mp4", 0, 1)[0][..., ::-1]).save(folder / "landscape.png")
    return folder


@pytest.fixture
def run_dir(clips, tmp_path):
    folder = shutil.copytree(clips, tmp_path / "run")
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def scored(clips, comfyui, tmp_path_factory):
    """A run that has been scored by both protocols; tests only read it."""
    folder = shutil.copytree(clips, tmp_path_factory.mktemp("scored") / "run")
    write_manifest(folder)
    assert [run(folder, comfyui, "--protocol", protocol) for protocol in ("strict", "paper")] == [1, 1]
    return folder


def run(folder, comfyui, *options):
    return main([str(folder), "--comfyui", str(comfyui), "--pack", "demo", "--provider", "CPU", *map(str, options)])


def start(folder, comfyui):
    """The command in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "consisid_core.evaluation", folder, "--comfyui", comfyui, "--pack", "demo"]
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(folder, count, process):
    file = folder / "evaluation/results_strict.jsonl"
    deadline = time.monotonic() + 180
    while not (file.is_file() and file.read_bytes().count(b"\n") >= count):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


# ---- results -------------------------------------------------------------------------------------------------------


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
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert "0.0/7 videos" in err
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the next run goes on" in err
    kept = [json.dumps(line) for line in read_lines(run_dir)]
    assert 1 <= len(kept) < len(ROWS)
    # What a kill in the middle of a write leaves behind.
    with open(run_dir / "evaluation/results_strict.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"key": "0123456789abcdef", "video": "ours/b.m')
    assert run(run_dir, comfyui) == 1
    lines = read_lines(run_dir)
    assert [json.dumps(line) for line in lines[: len(kept)]] == kept
    assert len(lines) == len(ROWS)

    def without_key(line):  # It holds the date of the file.
        return {name: value for name, value in line.items() if name != "key"}

    assert [without_key(line) for line in lines] == [without_key(line) for line in read_lines(scored)]
    for name in ("summary_strict.md", "summary_strict.csv", "table_strict.tex", "report_strict.html"):
        assert (run_dir / "evaluation" / name).read_bytes() == (scored / "evaluation" / name).read_bytes()


def test_damaged_line_costs_its_video_only(scored, comfyui, tmp_path, caplog):
    folder = shutil.copytree(scored, tmp_path / "run", copy_function=shutil.copy2)
    file = folder / "evaluation/results_strict.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join([lines[0], "\0\0\0\n", *lines[2:]]), encoding="utf-8")
    write_manifest(folder, ROWS[:-FAILED])
    assert run(folder, comfyui) == 0
    assert "line 2 is damaged" in caplog.text
    assert json.loads(file.read_text(encoding="utf-8").splitlines()[-1]) == json.loads(lines[1])


# ---- all nets ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_comfyui(comfyui, models_dir, tmp_path_factory):
    """With random weights for everything that scores, where the command looks for them."""
    root = shutil.copytree(comfyui, tmp_path_factory.mktemp("full") / "ComfyUI")
    folder = root / "models/consisid"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for name, sizes in (
        (PAPER_INCEPTION, {"num_classes": 1000, "aux_logits": True}),
        (TRUE_INCEPTION, {"num_classes": 1008, "aux_logits": False}),
    ):
        net = Inception3(init_weights=False, **sizes)
        for x in net.parameters():
            # The gain is one at which features tell pictures apart.
            if x.ndim > 1:
                torch.nn.init.normal_(x, std=(2.5 / x[0].numel()) ** 0.5, generator=generator)
        torch.save(net.state_dict(), folder / name)
    torch.manual_seed(0)
    tiny = CurricularFace(((4, 1), (8, 1), (16, 2), (24, 1)))
    (folder / RECOGNISER).parent.mkdir(parents=True)
    torch.save(tiny.state_dict(), folder / RECOGNISER)
    clip = "clip-vit-base-patch32"
    shutil.copytree(models_dir / "consisid/consisid_demo" / clip, folder / clip)
    return root


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


def test_wrong_inception_stops_before_the_first_video(run_dir, full_comfyui, capsys):
    file = full_comfyui / "models/consisid" / PAPER_INCEPTION
    assert run(run_dir, full_comfyui, "--inception", file) == 1
    assert "error: The strict protocol measures FID by torch-fidelity's Inception" in capsys.readouterr().err
    assert not (run_dir / "evaluation").exists()


# ---- report --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Every element with its attributes, and all text outside of style."""

    def __init__(self, file):
        super().__init__()
        self.elements, self.text, self.open = [], [], []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def test_page_needs_no_network_and_hides_no_markup(scored):
    page = Page(scored / "evaluation/report_strict.html")
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "link", "iframe", "b", "object"} & set(tags)
    loaded = [value for _, at in page.elements for name, value in at.items() if name in ("src", "srcset")]
    assert len(loaded) == 4  # Two plots, light and dark.
    assert len(set(loaded)) == 4
    assert all(re.fullmatch(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+", value) for value in loaded)
    links = [at["href"] for tag, at in page.elements if tag == "a"]
    assert links == ["../ours/a.mp4", "../ours/b.mp4", "../ours/corrupt.mp4", "../ours/a.mp4", *links[4:]]
    assert all((scored / "evaluation" / link).is_file() for link in links)
    assert "url(" not in (scored / "evaluation/report_strict.html").read_text(encoding="utf-8")
    assert HOSTILE in page.text
    assert PROMPT in page.text
    assert "The video ours/missing.mp4 does not exist." in page.text
    assert WARNING in page.text


def test_links_are_addresses(clips, comfyui, tmp_path):
    folder = tmp_path / "a run"
    name = "100% #1 é?.mp4" if os.name != "nt" else "100% #1 é.mp4"
    folder.mkdir()
    shutil.copy(clips / "ours/b.mp4", folder / name)
    elsewhere = str(shutil.copy(clips / "photo.png", tmp_path / "photo.png"))
    (folder / "manifest.json").write_text(json.dumps([{"video": name, "reference": elsewhere}]), encoding="utf-8")
    assert run(folder, comfyui) == 0
    (link,) = (at["href"] for tag, at in Page(folder / "evaluation/report_strict.html").elements if tag == "a")
    assert re.fullmatch(r"[\w./%-]+", link)
    assert unquote(link) == f"../{name}"


def test_names_are_escaped_in_markdown_and_latex(scored):
    text = (scored / "evaluation/summary_strict.md").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if "100%" in line and "±" in line)
    # As CommonMark reads it: cells end at bars without a backslash, and a backslash is taken off before punctuation.
    name = re.split(r"(?<!\\)\|", line)[1].strip()
    assert re.sub(r"\\([^\w\s]|_)", r"\1", name) == HOSTILE
    assert not re.search(r"(?<!\\)[<>*_`$&]", name)
    text = (scored / "evaluation/table_strict.tex").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if not line.startswith("%")]
    assert len(rows) == 2
    assert rows[0].startswith("ours (demo weights) & 2 & 3 & ")
    assert rows[1].startswith(
        r"\textless{}b\textgreater{}A\&B\textless{}/b\textgreater{} | 100\%\_\$x\$ \textbackslash{} "
        r""""q" 'p' \#1 \textasciitilde{}\textasciicircum{}\{\} (demo weights) & """
    )
    assert all(row.endswith(r" \\") and len(re.findall(r"(?<!\\)&", row)) == 4 for row in rows)
    assert not any(re.search(r"(?<!\\)%", row) for row in rows)


def test_nothing_scored_gives_a_report_all_the_same(run_dir, comfyui):
    write_manifest(run_dir, [ROWS[4], ROWS[5]])
    assert run(run_dir, comfyui) == 1
    page = Page(run_dir / "evaluation/report_strict.html")
    assert "img" not in [tag for tag, _ in page.elements]
    row = read_csv(run_dir)["ours"]
    assert (row["videos"], row["missing"], row["face_sim_arc_mean"]) == ("2", "2", "")


def test_paper_tables():
    tables = {table.id: dict(table.rows) for table in PAPER_TABLES}
    assert list(tables) == ["Table 1", "Table 2", "Table 3", "Table 4"]
    assert tables["Table 1"]["ConsisID"] == (0.58, 0.60, 27.93, 151.82)
    assert tables["Table 1"]["ID-Animator"] == (0.32, 0.33, 24.97, 117.46)
    assert tables["Table 2"]["full"] == (0.73, 0.75, 36.77, 127.42)
    assert tables["Table 2"]["without coarse-to-fine training (CFT)"] == (0.54, 0.58, 34.47, 144.62)
    assert tables["Table 4"]["50 steps"] == (0.52, 0.54, 33.08, 163.68, 100)
    assert tables["Table 4"]["200 steps"] == (0.33, 0.39, 31.18, 166.79, 440)
    # Three ablations are in two tables.
    assert [tables["Table 3"][name] for name in list(tables["Table 3"])[:3]] == [
        tables["Table 2"][name] for name in ("without global extractor (GFE)", "without local extractor (LFE)", "full")
    ]
    assert [len(rows) for rows in tables.values()] == [3, 6, 7, 8]
    for table in PAPER_TABLES:
        assert {len(values) for _, values in table.rows if values} == {len(table.columns)}


def test_own_figures_stand_beside_those_of_the_same_protocol_only(scored):
    for protocol, expected in (("strict", 0), ("paper", 1)):
        page = Page(scored / f"evaluation/report_{protocol}.html")
        sections = [at.get("class") for tag, at in page.elements if tag == "section"]
        assert sections.count("own") == expected
        assert len(sections) == expected + 4
        text = "".join(page.text)
        assert ("measured otherwise, by the strict protocol" in text) == (protocol == "strict")
        assert ("but by other nets" in text) == (protocol == "paper")


# ---- manifest and options ------------------------------------------------------------------------------------------


def test_manifest_forms_are_read_alike(tmp_path):
    expected = [
        Row("a b.mp4", ("p.png",), PROMPT, "ours", "7"),
        Row("ü.mp4", ("p.png", "q.png"), "", "unnamed", ""),
    ]
    entries = [
        {"video": "a b.mp4", "reference": "p.png", "prompt": PROMPT, "system": "ours", "seed": 7, "extra": [1]},
        {"video": "ü.mp4", "reference": ["p.png", "q.png"], "prompt": None},
    ]
    write_manifest(tmp_path, [("a b.mp4", "p.png", PROMPT, "ours", 7), (" ü.mp4", "p.png; q.png;", "", "", "")])
    assert read_manifest(tmp_path) == expected
    (tmp_path / "manifest.csv").unlink()
    for text in (json.dumps(entries, indent=1), "\n\n".join(map(json.dumps, entries))):
        (tmp_path / "manifest.json").write_text(text, encoding="utf-8-sig")
        assert read_manifest(tmp_path) == expected


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("manifest.csv", b"", "has no column video and no column reference; it is empty"),
        ("manifest.csv", b"video,prompt\na.mp4,x\n", "has no column reference; it has 'video', 'prompt'"),
        ("manifest.csv", b"video;reference\na.mp4;x\n", "it has 'video;reference'"),
        ("manifest.csv", b"video,reference\n", "lists no video"),
        ("manifest.csv", b"video,reference\na.mp4,p.png\n,p.png\n", "line 3 has no video"),
        ("manifest.csv", b"video,reference\na.mp4,;\n", "line 2 has no reference"),
        ("manifest.csv", b"video,reference,prompt\na.mp4,p.png,A man, walking\n", "line 2 has more values than"),
        ("manifest.csv", b'video,reference\n"a.mp4,p.png\n', "is not readable as CSV"),
        ("manifest.csv", "video,reference\nü.mp4,p.png\n".encode("latin-1"), "is not UTF-8"),
        ("manifest.json", b"[]", "lists no video"),
        ("manifest.json", b'[{"video": "a.mp4"}]', "entry 1 has no reference"),
        ("manifest.json", b'[{"video": "a.mp4", "reference": "p"},]', "is not valid JSON"),
        ("manifest.json", b'{"video": "a.mp4", "reference": "p"}\n{"video"', "line 2 is not valid JSON"),
        ("manifest.json", b'["a.mp4"]', "entry 1 is no object"),
        ("manifest.json", b'[{"video": {"a": 1}, "reference": "p"}]', "entry 1: video must be a text"),
    ],
)
def test_unusable_manifest_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ConsisIDError, match=re.escape(message)) as error:
        read_manifest(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_which_manifest(tmp_path):
    with pytest.raises(ConsisIDError, match="holds no manifest.csv. Its first line names the columns"):
        read_manifest(tmp_path)
    with pytest.raises(ConsisIDError, match="is not a folder"):
        read_manifest(tmp_path / "none")
    for name in ("manifest.csv", "manifest.json"):
        (tmp_path / name).touch()
    with pytest.raises(ConsisIDError, match="holds both"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--pack", "none"], "error: There is no insightface pack none in"),
        (["--curricular-face", "none.bin"], "error: none.bin does not exist. Correct --curricular-face"),
        (["--inception", "none.pth"], "error: none.pth does not exist. Correct --inception"),
        (["--clip", "none"], "error: none does not exist. Correct --clip"),
        (["--comfyui", "none"], "is not a folder. Name ComfyUI's folder"),
    ],
)
def test_what_is_asked_for_must_be_there(run_dir, comfyui, capsys, options, message):
    assert run(run_dir, comfyui, *options) == 1
    assert message in capsys.readouterr().err
    assert not (run_dir / "evaluation").exists()


def test_defaults_without_a_comfyui(run_dir, comfyui, capsys, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert main([str(run_dir)]) == 1
    assert "Which ComfyUI?" in capsys.readouterr().err
    write_manifest(run_dir, ROWS[:1])
    assert main([str(run_dir), "--pack", str(comfyui / "models/insightface/models/demo")]) == 0
    out = capsys.readouterr().out
    assert [out.count(f"{score} is left out") for score in ("FaceSim-Cur", "FID", "CLIPScore")] == [1, 1, 1]


@pytest.mark.parametrize("arguments", [[], ["run", "--protocol", "loose"], ["run", "--provider", "abacus"], ["a", "b"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m consisid_core.evaluation" in capsys.readouterr().err


def test_folder_that_cannot_be_written(run_dir, comfyui, capsys):
    (run_dir / "evaluation").write_text("A file where the folder belongs.")
    assert run(run_dir, comfyui) == 1
    assert "error: " in capsys.readouterr().err


def test_summary_of_one_video_has_no_error_of_the_mean():
    result = {"system": "one", "frames": 2, "frames_without_face": 1, "face_sim_arc": 0.25, "face_sim_cur": None}
    (summary,) = summarise([{**result, "clip_score": 20.0}], "strict", None)
    assert (summary.scores["face_sim_arc"].mean, summary.scores["face_sim_arc"].standard_error) == (0.25, None)
    assert summary.scores["face_sim_cur"] is None
    assert (summary.faceless, summary.missing) == (0.5, 0)
