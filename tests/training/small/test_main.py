import pytest
import torch
from consisid_pack.consisid_core.training.small import __main__ as command
from consisid_pack.consisid_core.training.small.stage import read_state


@pytest.fixture
def small(sizes, monkeypatch):
    """The command with the nets of a test."""
    made = command._Run.__init__

    def init(self, options):
        made(self, options)
        self.sizes = sizes
        self.batches = dict.fromkeys(self.batches, 2)

    monkeypatch.setattr(command._Run, "__init__", init)
    monkeypatch.setattr(command, "_LEAST_PEOPLE", 2)
    monkeypatch.setattr(command, "_LEAST_CLIPS", 2)


def test_stages_from_a_shelf_to_a_set(small, shelf, tmp_path, pack, tokenizer, capsys):
    where = ["--device", "cpu", "--pack", str(pack), "--tokenizer", str(tokenizer)]
    stages = "code,identity,pictures,videos,parser,denoiser,assemble"
    arguments = [str(tmp_path), "--minutes", "0.0001", "--stages", stages, *where]
    assert command.main(arguments) == 0
    assert read_state(tmp_path, "denoiser")["steps"] == 1
    written = capsys.readouterr().out
    assert written.count("wrote") == 6
    assert (tmp_path / "models/consisid/consisid_small/transformer.safetensors").is_file()

    before = (tmp_path / "denoiser.pt").stat().st_mtime_ns
    assert command.main(arguments) == 0  # There is nothing left to do, and nothing is done again.
    averaged = read_state(tmp_path, "denoiser")
    assert averaged["steps"] == 1 and (tmp_path / "denoiser.pt").stat().st_mtime_ns >= before


def test_a_stage_before_its_time_names_the_one_it_needs(small, shelf, tmp_path, capsys):
    assert command.main([str(tmp_path), "--stages", "identity", "--device", "cpu"]) == 1
    assert "no code.pt yet. Run the stage that makes it: --stages code" in capsys.readouterr().err


def test_start_begins_with_the_repositorys_weights_once(tmp_path, capsys):
    arguments = [str(tmp_path), "--start", "--stages", "code", "--device", "cpu"]
    assert command.main(arguments) == 0
    assert torch.isfinite(read_state(tmp_path, "code")["basis"]).all()
    assert command.main(arguments) == 1
    assert "Go on without --start" in capsys.readouterr().err


def test_wrong_usage(tmp_path, capsys):
    assert command.main([str(tmp_path), "--stages", "peple"]) == 2
    assert "no stage 'peple'" in capsys.readouterr().err
    assert command.main([str(tmp_path), "--minutes", "0"]) == 2


def test_no_face_pack_names_the_cure(small, tmp_path, capsys, tokenizer):
    arguments = [str(tmp_path), "--stages", "people", "--pack", str(tmp_path), "--tokenizer", str(tokenizer)]
    assert command.main([*arguments, "--people", "2", "--clips", "2", "--workers", "1"]) == 1
    assert "no face pack" in capsys.readouterr().err
