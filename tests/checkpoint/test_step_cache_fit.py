"""The file of a step cache's fit: where it lies, and that a damaged one is named."""

import json

import pytest
from consisid_pack.consisid_core.checkpoint.step_cache_fit import fit_path, read_fit
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.model.step_cache import StepCacheFit

CONTENT = {"coefficients": [1, 2.5], "lowest": 0.1, "highest": 0.9}


def test_it_lies_beside_a_file_and_in_a_folder(tmp_path):
    assert fit_path(tmp_path / "mine.bf16.safetensors") == tmp_path / "mine.bf16.step_cache.json"
    assert fit_path(str(tmp_path)) == tmp_path / "step_cache.json"
    assert read_fit(tmp_path) is None and read_fit(tmp_path / "mine.safetensors") is None
    fit_path(tmp_path / "mine.safetensors").write_text(json.dumps({**CONTENT, "videos": 3}), encoding="utf-8")
    assert read_fit(tmp_path / "mine.safetensors") == StepCacheFit((1.0, 2.5), 0.1, 0.9)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"coefficients": 1}', b"\xff",
     *(json.dumps(CONTENT | change) for change in (
         {"lowest": 0}, {"lowest": 1}, {"highest": None}, {"coefficients": []}, {"coefficients": ["a"]},
         {"coefficients": [float("nan")]},
     ))],
)  # fmt: skip
def test_a_damaged_one_is_named(tmp_path, text):
    path = fit_path(tmp_path)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConsisIDError) as error:
        read_fit(tmp_path)
    assert str(error.value).startswith(f"{path} cannot be read (") and "fit again" in str(error.value)
