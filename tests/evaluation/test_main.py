"""The command's options."""

import pytest
from consisid_pack.consisid_core.evaluation.__main__ import main
from helpers.evaluation import PAPER_INCEPTION, ROWS, run, write_manifest


def test_wrong_inception_stops_before_the_first_video(run_dir, full_comfyui, capsys):
    file = full_comfyui / "models/consisid" / PAPER_INCEPTION
    assert run(run_dir, full_comfyui, "--inception", file) == 1
    assert "error: The strict protocol measures FID by torch-fidelity's Inception" in capsys.readouterr().err
    assert not (run_dir / "evaluation").exists()


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
