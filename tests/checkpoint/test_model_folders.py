"""Where a ComfyUI looks for models. The commands that use this are tested in weights/ and evaluation/."""

import sys
from pathlib import Path

import pytest
from consisid_pack.consisid_core.checkpoint.model_folders import ModelFolders
from consisid_pack.consisid_core.errors import ConsisIDError


@pytest.fixture
def comfyui(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path


def test_folders_of_two_names(comfyui):
    folders = ModelFolders(comfyui)
    assert folders.roots("diffusion_models") == [comfyui / "models/diffusion_models", comfyui / "models/unet"]
    assert folders.roots("consisid") == [comfyui / "models/consisid"]
    assert folders.shown(comfyui / "models/vae/a") == "models/vae/a" and folders.shown(Path("/x/y")) == "/x/y"


def test_extra_paths_are_read_as_comfyui_reads_them(comfyui):
    (comfyui / "extra_model_paths.yaml").write_text(
        "one:\n  base_path: more\n  unet: |\n    a\n    b\n"
        "two:\n  base_path: /large\n  is_default: true\n  diffusion_models: c\n"
    )
    own = [comfyui / "models/diffusion_models", comfyui / "models/unet"]
    more = [comfyui / "more/a", comfyui / "more/b"]
    assert [str(p) for p in ModelFolders(comfyui).roots("diffusion_models")] == [
        "/large/c", *map(str, own), *map(str, more)
    ]  # fmt: skip


def test_a_file_of_another_structure_is_named(comfyui):
    (comfyui / "extra_model_paths.yaml").write_text("one: [1, 2]")
    with pytest.raises(ConsisIDError, match=r"extra_model_paths\.yaml cannot be read"):
        ModelFolders(comfyui)


def test_a_missing_package_is_not_taken_for_a_broken_file(comfyui, monkeypatch):
    (comfyui / "extra_model_paths.yaml").write_text("")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConsisIDError, match="needs a Python package that does not import here .*yaml"):
        ModelFolders(comfyui)


def test_a_folder_that_is_no_comfyui(tmp_path):
    with pytest.raises(ConsisIDError, match=r"is neither a ComfyUI folder \(no main\.py\) nor a models folder"):
        ModelFolders(tmp_path)
    with pytest.raises(ConsisIDError, match="is not a folder"):
        ModelFolders(tmp_path / "absent")
