"""Names for combos from ComfyUI's lists, and the paths of what was chosen."""

import os
from pathlib import Path

import folder_paths
import pytest
from consisid_pack.consisid_core.comfyui import model_folders
from consisid_pack.consisid_core.errors import ConsisIDError


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A ComfyUI's models folder, registered, in which another pack lets insightface list pickles only."""
    folders = {name: ([str(tmp_path / name)], set()) for name in ("diffusion_models", "vae", "consisid")}
    folders["insightface"] = ([str(tmp_path / "insightface")], folder_paths.supported_pt_extensions)
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    model_folders.register()

    def put(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        return tmp_path

    return put


def test_registering_again_changes_nothing(models):
    before = {name: [*paths] for name, (paths, _) in folder_paths.folder_names_and_paths.items()}
    model_folders.register()
    assert {name: [*paths] for name, (paths, _) in folder_paths.folder_names_and_paths.items()} == before


def test_face_packs_are_folders_with_files(models):
    models(
        "insightface/models/antelopev2/a.onnx", "insightface/models/antelopev2/b.onnx",
        "insightface/models/buffalo_l/buffalo_l.zip", "insightface/models/antelopev2.zip",
        "insightface/inswapper_128.onnx", "insightface/models/nested/nested/a.onnx",
    )  # fmt: skip
    assert model_folders.face_pack_names() == ["antelopev2", "buffalo_l", "nested"]
    assert model_folders.evaluation_pack_names() == ["buffalo_l", "antelopev2", "nested"]
    root = models("insightface/models/new/a.onnx")
    os.utime(root / "insightface/models", (1, 1))  # The clock of files may have stood still since.
    assert "new" in model_folders.face_pack_names()


def test_identities_are_named_without_suffix_and_no_weights(models):
    models(
        "consisid/identities/anna.safetensors", "consisid/identities/family/ben.SAFETENSORS",
        "consisid/identities/.hidden.safetensors", "consisid/identities/.cache/x.safetensors",
        "consisid/identities/note.txt", "consisid/parsing_bisenet.pth",
    )  # fmt: skip
    assert model_folders.identity_names() == ["anna", "family/ben"]
    assert model_folders.weight_file_names("") == ["parsing_bisenet.pth"]


def test_weights_in_a_copy_of_the_repository_are_offered(models):
    models(
        "diffusion_models/b.safetensors", "diffusion_models/a.gguf", "vae/x.safetensors",
        "consisid/copy/transformer/m-00001-of-00002.safetensors",
        "consisid/copy/transformer/m-00002-of-00002.safetensors",
        "consisid/copy/vae/y.safetensors", "consisid/copy/EVA.pt", "consisid/copy/clip/preprocessor_config.json",
    )  # fmt: skip
    assert model_folders.transformer_names() == ["a.gguf", "b.safetensors", "copy/transformer"]
    assert model_folders.checkpoint_names("vae", "vae") == ["x.safetensors", "copy/vae/y.safetensors"]
    assert model_folders.face_net_names("eva")[0] == "copy/EVA.pt"
    assert model_folders.clip_folder_names() == ["copy/clip"]


def test_paths_lie_inside_the_folders(models):
    file = "consisid/copy/vae/y.safetensors"
    root = models(file, "insightface/models/antelopev2/a.onnx", "outside/a.onnx")
    assert Path(model_folders.checkpoint_path("vae", "copy/vae/y.safetensors")) == root / file
    assert Path(model_folders.checkpoint_path("vae", "copy/vae")) == root / "consisid/copy/vae"
    assert Path(model_folders.face_pack_path("antelopev2")) == root / "insightface/models/antelopev2"
    assert model_folders.identity_folders() == [str(root / "consisid/identities")]
    for name in ("../../outside", str(root / "outside"), "gone", "."):
        with pytest.raises(ConsisIDError, match="is not in .*Put it there or choose another"):
            model_folders.face_pack_path(name)
        with pytest.raises(ConsisIDError, match="is not in .*Put it there or choose another"):
            model_folders.checkpoint_path("vae", name)
