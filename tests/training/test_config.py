"""The config file: its presets, its checks, and that what is written reads back."""

import re

import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.config import PRESETS, differences, load_config, write_config


def load(folder, text):
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(file)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_whole_and_read_back_as_written(tmp_path, preset):
    config = load(tmp_path, f'preset = "{preset}"\n[data]\ncache = "cache"')
    write_config(config, tmp_path / "written.toml")
    assert load_config(tmp_path / "written.toml") == config
    assert config.data.cache == str((tmp_path / "cache").resolve())


def test_the_papers_numbers(tmp_path):
    paper = load(tmp_path, 'preset = "paper"')
    assert (paper.batch.size, sum(stage.steps for stage in paper.stages.values())) == (80, 1800)
    assert {stage.learning_rate for stage in paper.stages.values()} == {3e-6}
    assert (paper.conditions.cross_face, paper.loss.mask_probability, paper.conditions.text_dropout) == (0.5, 0.5, 0.1)
    assert [stage.identity_tokens for stage in paper.stages.values()] == [False, True]
    assert paper.net == {"injection": "between", "keypoints": True}


def test_the_released_scripts_numbers(tmp_path):
    released = load(tmp_path, 'preset = "released"')
    optimizer = released.optimizer
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay) == (0.9, 0.95, 1e-8, 1e-4)
    assert (optimizer.warmup, optimizer.clip_norm, released.loss.mask_probability) == (200, 1.0, 0.5)
    assert released.net == {}
    conditions = released.conditions
    assert (conditions.cross_face, conditions.text_dropout, conditions.image_dropout) == (0, 0, 0.05)
    assert (conditions.identity_dropout, conditions.token_dropout) == (0, 0)


def test_a_file_changes_single_keys_of_its_preset_and_patterns_as_a_whole(tmp_path):
    config = load(
        tmp_path,
        'preset = "lora"\n[optimizer]\nbeta2 = 0.99\n[stages.fine]\nsteps = 7\n'
        "[stages.fine.train]\n'perceiver*' = 10\n[stages.extra]\n"
        'steps = 1\nlearning_rate = 1\nimage = "none"\nidentity_tokens = true\ntrain = {"*" = 1}',
    )
    assert (config.optimizer.beta1, config.optimizer.beta2) == (0.9, 0.99)
    assert (config.stages["fine"].steps, config.stages["fine"].learning_rate) == (7, 1e-4)
    assert config.stages["fine"].train == {"perceiver*": 10.0}
    assert list(config.stages) == ["coarse", "fine", "extra"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[conditions]\ncros_face = 0.1", "there is no key conditions.cros_face. Did you mean conditions.cross_face?"),
        ("[condition]\ncross_face = 0.1", "there is no key condition. Did you mean conditions?"),
        ("[stages.fine]\nstep = 3", "there is no key stages.fine.step. Did you mean stages.fine.steps?"),
        ("[conditions]\ncross_face = 1.5", "conditions.cross_face must be 0 to 1, not 1.5"),
        ("[batch]\nsize = 0", "batch.size must be 1 or more, not 0"),
        ("[batch]\nsize = 1.5", "batch.size must be a whole number, not 1.5"),
        ("[batch]\nsize = true", "batch.size must be a whole number, not True"),
        ("[conditions]\nreference_noise = 1", "conditions.reference_noise must be true or false, not 1"),
        ("[memory]\nprecision = 'fp32'", "memory.precision must be one of float32, mixed, bfloat16, not 'fp32'"),
        ("[stages.fine.train]\n'*' = 'all'", "stages.fine.train.* must be a number, not 'all'"),
        ("[stages.new]\nsteps = 1", "stages.new.learning_rate is missing"),
        ("[stages]\nfine = 3", "stages.fine must be a table"),
        ("batch = 3", "batch must be a table"),
        ("[lora]\ntargets = [1]", "lora.targets must be a list of texts"),
        ("[stages.coarse]\nsteps = 0\n[stages.fine]\nsteps = 0", "no stage has any steps"),
        ("[batch", "is not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    with pytest.raises(ConsisIDError, match=re.escape(words)):
        load(tmp_path, 'preset = "paper"\n' + text)


def test_a_missing_preset_and_an_unknown_one_are_named(tmp_path):
    with pytest.raises(ConsisIDError, match='net is missing|run is missing.*preset = "paper"'):
        load(tmp_path, "[batch]\nsize = 1")
    with pytest.raises(ConsisIDError, match="there is no preset 'papr'. Did you mean paper?"):
        load(tmp_path, 'preset = "papr"')
    with pytest.raises(ConsisIDError, match="nowhere.toml cannot be read: No such file"):
        load_config(tmp_path / "nowhere.toml")


def test_differences_go_by_name(tmp_path):
    one = load(tmp_path, 'preset = "lora"')
    other = load(tmp_path, 'preset = "lora"\n[batch]\nsize = 8\n[stages.fine.train]\n"b*" = 2')
    assert differences(one, one) == {}
    assert differences(one, other) == {
        "batch.size": (4, 8), "stages.fine.train.*.lora_*": (1.0, None), "stages.fine.train.b*": (None, 2.0),
    }  # fmt: skip
