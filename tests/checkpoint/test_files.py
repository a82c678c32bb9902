"""Which files form a checkpoint. What is wrong with folders of shards is also tested through the loaders."""

import json

import pytest
from consisid_pack.consisid_core.checkpoint.files import check_index, checkpoint_files, list_checkpoints, parse_json
from consisid_pack.consisid_core.errors import ConsisIDError

SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]


@pytest.fixture
def folder(tmp_path):
    for shard in SHARDS:
        (tmp_path / shard).touch()
    weight_map = {"a": SHARDS[0], "b": SHARDS[1]}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text('{"num_layers": 2}')
    return tmp_path


def test_shards_are_offered_as_their_folder():
    files = ["one.safetensors", *(f"x\\y/{shard}".replace("\\", "/") for shard in SHARDS), SHARDS[0]]
    assert list_checkpoints(files) == [SHARDS[0], "one.safetensors", "x/y"]


def test_averaged_weights_stand_before_the_last_ones():
    names = [f"{folder}/{SHARDS[0]}" for folder in ("c/transformer", "c/transformer_ema", "a/transformer")]
    assert list_checkpoints(names) == ["a/transformer", "c/transformer_ema", "c/transformer"]


def test_a_folder_of_shards(folder):
    assert checkpoint_files(folder) == ([folder / shard for shard in SHARDS], {"num_layers": 2})


def test_config_beside_one_file_counts_under_diffusers_name_only(tmp_path):
    (tmp_path / "config.json").write_text('{"num_layers": 2}')
    for name, config in (("diffusion_pytorch_model.safetensors", {"num_layers": 2}), ("other.safetensors", {})):
        assert checkpoint_files(tmp_path / name) == ([tmp_path / name], config)


def test_config_beside_one_file_of_transformers(tmp_path):
    (tmp_path / "config.json").write_text('{"num_layers": 2}')
    assert checkpoint_files(tmp_path / "model.safetensors") == ([tmp_path / "model.safetensors"], {"num_layers": 2})


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "model.safetensors"])
def test_a_folder_of_one_file_needs_no_index(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ConsisIDError, match="holds 0 index files"):  # Without its config it is no library's.
        checkpoint_files(tmp_path)
    (tmp_path / "config.json").write_text('{"num_layers": 2}')
    assert checkpoint_files(tmp_path) == ([tmp_path / name], {"num_layers": 2})
    check_index(tmp_path, {"a": name})
    (tmp_path / SHARDS[0]).touch()
    for check in (checkpoint_files, lambda folder: check_index(folder, {"a": name})):
        with pytest.raises(ConsisIDError, match="holds 0 index files"):
            check(tmp_path)


def test_index_that_does_not_fit(folder):
    check_index(folder, {"a": SHARDS[0], "b": SHARDS[1]})
    with pytest.raises(ConsisIDError, match=r"index\.json does not fit its shards: 2 parameters .*\(b, c\)"):
        check_index(folder, {"a": SHARDS[0], "c": SHARDS[1]})


def test_a_shard_outside_its_folder(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    with pytest.raises(ConsisIDError, match="must name the files of this folder"):
        checkpoint_files(folder)


@pytest.mark.parametrize(("text", "words"), [("{", "cannot be read as JSON"), ("[]", "is not a JSON object")])
def test_texts_that_are_no_json_object(text, words):
    with pytest.raises(ConsisIDError, match=f"^a.json {words}.*Download it again"):
        parse_json(text, "a.json")
