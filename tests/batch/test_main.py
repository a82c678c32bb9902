"""The command, in a process of its own, on real ComfyUI servers: what it makes, what it survives, what it refuses."""

import json
import signal
import time

import psutil
import pytest
from consisid_pack.consisid_core.batch.__main__ import main
from helpers.batch import (
    command,
    demo_graph,
    lines,
    node,
    plain_graph,
    run,
    start,
    videos,
    write_run,
)
from helpers.evaluation import read_csv
from helpers.served import link_released_names
from PIL import Image


def children(folder):
    """Processes of servers that work for a run folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in part for part in process.cmdline()) and "main.py" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_table_becomes_videos_with_one_analysis_a_photo(tmp_path, base):
    """Two people, one photo without a face; then a second start, which makes only the row that is new."""
    rows = ["photos/anna.png,Reads.,1", "photos/coffee.png,Reads.,1", "photos/eve.png,Reads.,1", "photos/anna.png,,2"]
    folder = write_run(tmp_path / "run", demo_graph(), "\n".join(["photo,prompt,seed", *rows]))
    code, output = run(folder, base, "--seconds", 2, "--price", 3)
    assert code == 1 and "3 of 4 videos are in" in output and "Traceback" not in output, output
    assert "4 to make x 2 s (as given)" in output and "Missing: 1 refused." in output
    assert "manifest.csv, line 3: refused: ConsisIDFaceAnalyzer: Photo 1 of 1" in output and "3/3 videos" in output
    first = videos(folder)
    assert len(first) == 3 and len(set(first.values())) == 3
    assert len(list((folder / "batch" / "identities").iterdir())) == 2, "one analysis for each person"
    assert not children(folder)
    entries = [json.loads(line) for line in (folder / "videos" / "manifest.json").read_text().splitlines()]
    assert {entry["video"] for entry in entries} == first.keys() and entries[0]["reference"] == ["../photos/anna.png"]

    (folder / "manifest.csv").write_text("\n".join(["photo,prompt,seed", *rows, "photos/eve.png,Reads.,2"]))
    before = len(lines(folder))
    code, output = run(folder, base)
    assert code == 1 and "1 were refused before; --retry-refused" in output and "faces" not in output, output
    assert len(lines(folder)) == before + 1 and videos(folder).items() > first.items()


def test_a_run_survives_its_failures_and_its_own_death(tmp_path, base):
    """A server that dies, want of memory, a bad item; and the driver killed in the middle."""
    troubles = ["", "", f"die {tmp_path / 'die'}", "fail", "memory", ""]
    rows = "".join(f"{number},{how}\n" for number, how in enumerate(troubles))
    folder = write_run(tmp_path / "run", plain_graph(), "1.color,Trouble.how\n" + rows)
    with start(folder, base) as process:
        while len(lines(folder) if (folder / "batch").is_dir() else []) < 2:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        process.kill()
    end = time.monotonic() + 60
    while children(folder):
        assert time.monotonic() < end, "the servers live on"
        time.sleep(0.2)
    before = videos(folder)
    code, output = run(folder, base)
    assert code == 1 and "4 of 6 videos" in output and "Missing: " in output, output
    assert (
        "It is tried again." in output
        and "1 refused" in output
        and "1 out of memory" in output
        and "Trouble: It does not work." in output
    )
    assert len(videos(folder)) == 4 and videos(folder).items() >= before.items()
    made = [line["what"] for line in lines(folder) if "file" in line]
    assert len(made) == len(set(made)) == 4, "none twice"
    assert not list((folder / "videos").glob("*.part"))


def test_ctrl_c_stops_the_servers(tmp_path, base):
    folder = write_run(tmp_path / "run", plain_graph(), "Trouble.how\nhang\n")
    with start(folder, base) as process:
        end = time.monotonic() + 600
        while not children(folder):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Stopped; the next start makes what is missing." in output, output
    assert "Traceback" not in output and not children(folder)


def test_servers_of_somebody_else_make_the_same(tmp_path, server):
    rows = "".join(f"{number}\n" for number in range(4))
    folder = write_run(tmp_path / "run", plain_graph(), "1.color\n" + rows)
    code, output = run(folder, None, "--url", server.url)
    assert code == 0 and "4 of 4 videos" in output, output
    assert len(videos(folder)) == 4 and all(content[4:8] == b"ftyp" for content in videos(folder).values())


def test_the_videos_are_scored_at_the_end(tmp_path, server, models_dir, capsys):
    """Videos that show their photo, so that the figures are known: of a person, of a cup, and of nothing at all."""
    graph = plain_graph() | {
        "1": node("LoadImage", image=""),
        "2": node("RepeatImageBatch", image=["1", 0], amount=3),
    }
    rows = "photo,system\nphotos/anna.png,ours\nphotos/coffee.png,theirs\n"
    folder = write_run(tmp_path / "run", graph, rows + "photos/nothing.png,theirs\n")
    Image.new("RGB", (128, 128)).save(folder / "photos" / "nothing.png")
    link_released_names(models_dir, tmp_path / "comfyui" / "models")
    nets = ["--server-options", f"--base-directory {tmp_path / 'comfyui'}"]
    scored = [str(part) for part in command(folder, None, "--url", server.url, "--evaluate", *nets)[3:]]
    assert main(scored) == 1
    said = capsys.readouterr().out
    assert "3 of 3 videos are in" in said and "2 of 3 videos have their scores. Report: " in said
    assert (folder / "videos" / "evaluation" / "report_strict.html").is_file()
    ours, theirs = (read_csv(folder / "videos")[system] for system in ("ours", "theirs"))
    assert float(ours["face_sim_arc_mean"]) > 0.9 and float(ours["share_of_frames_without_face"]) == 0
    assert float(theirs["face_sim_arc_mean"]) == 0 and float(theirs["share_of_frames_without_face"]) == 1
    assert (ours["missing"], theirs["missing"]) == ("0", "1")

    (folder / "manifest.csv").write_text(rows)
    assert main(scored) == 0
    said = capsys.readouterr().out
    assert "2 videos, of which 2 are there." in said and "2 of 2 videos have their scores." in said


def refused(folder, *options):
    """What the command says when it does not start."""
    return [str(part) for part in command(folder, None, *options)[3:]]


@pytest.mark.parametrize(
    ("manifest", "options", "message"),
    [
        ("promt\nx", [], "line 2: there is no column 'promt'; did you mean 'prompt'?"),
        ("9.color\n1", [], "line 2: 9.color: graph.json has no node of this number or title"),
        ("photo\nnobody.png", [], "line 2: there is no photo nobody.png"),
        ("1.color\n1", ["--url", "http://127.0.0.1:9"], "There is no worker left. http://127.0.0.1:9 does not answer"),
        ("1.color\n1", ["--graph", "none.json"], "none.json cannot be read"),
        ("1.color\n1", ["--comfyui", "/nowhere"], "/nowhere is not a folder"),
        ("1.color\n1", ["--gpus-per-video", "2"], "graph.json does not split a video over 2 GPUs"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path, capsys, manifest, options, message):
    folder = write_run(tmp_path, plain_graph(), manifest)
    assert main(refused(folder, *(options or ["--url", "http://127.0.0.1:9"]))) == 1
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_two_runs_in_one_folder_are_refused(tmp_path, server, capsys):
    folder = write_run(tmp_path, plain_graph(), f"Trouble.how\nsleep {tmp_path / 'once'}\n")
    with start(folder, None, "--url", server.url) as process:
        while not (tmp_path / "once").exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert main(refused(folder, "--url", server.url)) == 1
        assert f"is being worked on by process {process.pid} on" in capsys.readouterr().err
        assert process.wait(600) == 0


def test_a_dry_run_says_what_would_be_made_and_writes_nothing(tmp_path, capsys):
    folder = write_run(tmp_path / "run", plain_graph(), "")
    (folder / "manifest.csv").unlink()
    (tmp_path / "prompts.txt").write_text("Reads.\nWalks.\n")
    before = sorted(tmp_path.rglob("*"))
    (folder / "graph.json").write_text(json.dumps(demo_graph()))
    options = ["--people", folder / "photos", "--prompts", tmp_path / "prompts.txt", "--seeds", 5, "--dry-run"]
    assert main(refused(folder, "--url", "http://127.0.0.1:9", *options)) == 0
    said = capsys.readouterr().out
    assert "3 people, 3 photos x 2 prompts x 5 seeds = 30 videos" in said and "30 to make x 110 s" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_options_that_exclude_one_another(tmp_path, capsys):
    for options in (
        ["--people", "x"],
        ["--seeds", "2"],
        ["--url", "x", "--ray"],
        ["--workers", "0"],
        ["--url", "x", "--gpus-per-video", "2"],
    ):
        with pytest.raises(SystemExit) as end:
            main([str(tmp_path), *options])
        assert end.value.code == 2
    capsys.readouterr()
