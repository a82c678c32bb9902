"""The folder of a run. What is refused by its content is tested through the command, in test_run."""

import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.config import load_config
from consisid_pack.consisid_core.training.run_folder import CONFIG, held, note
from helpers.training_runs import small_config


def test_a_folder_is_held_by_one_at_a_time_and_free_afterwards(tmp_path):
    folder = tmp_path / "new/run"
    with held(folder):
        with pytest.raises(ConsisIDError, match=r"is being trained by process \d+ on .*Ctrl-C"), held(folder):
            pass
    with held(folder):
        pass


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConsisIDError, match="is a file. Name a folder"), held(tmp_path / "file"):
        pass
    with pytest.raises(ConsisIDError, match="cannot be written"), held(tmp_path / "file/run"):
        pass


def test_the_config_in_effect_stands_in_the_folder(tmp_path):
    config = small_config(tmp_path)
    run_dir = tmp_path / "run"
    with held(run_dir):
        note(run_dir, config, {"vae": "1"})
        assert load_config(run_dir / CONFIG) == config
        note(run_dir, config, {"vae": "1"})
        with pytest.raises(ConsisIDError, match="vae differ"):
            note(run_dir, config, {"vae": "2"})
