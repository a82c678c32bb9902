"""Which hardware onnxruntime is asked for."""

import sys
from types import SimpleNamespace

import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.face.providers import PROVIDER_CHOICES, resolve_providers


@pytest.mark.parametrize(
    "installed, choice, expected",
    [
        (["AzureExecutionProvider", "CPUExecutionProvider"], "auto", ["CPUExecutionProvider"]),
        (["CPUExecutionProvider"], "CPU", ["CPUExecutionProvider"]),
        (
            ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
            "auto",
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
        ),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "CPU", ["CPUExecutionProvider"]),
        (["ROCMExecutionProvider", "CPUExecutionProvider"], "ROCm", ["ROCMExecutionProvider", "CPUExecutionProvider"]),
        (
            ["ROCMExecutionProvider", "MIGraphXExecutionProvider", "CPUExecutionProvider"],
            "auto",
            ["MIGraphXExecutionProvider", "CPUExecutionProvider"],
        ),
        (["DmlExecutionProvider", "CPUExecutionProvider"], "auto", ["DmlExecutionProvider", "CPUExecutionProvider"]),
    ],
)
def test_providers(monkeypatch, installed, choice, expected):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: installed)
    assert resolve_providers(choice) == expected


def test_a_provider_that_is_not_built_in_is_refused(monkeypatch):
    installed = ["DmlExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: installed)
    for choice in set(PROVIDER_CHOICES) - {"auto", "DirectML", "CPU"}:
        with pytest.raises(ConsisIDError, match=f"cannot run on {choice}.*offers: DirectML, CPU.*replace it by"):
            resolve_providers(choice)
    with pytest.raises(ConsisIDError, match="cannot run on abacus"):
        resolve_providers("abacus")


@pytest.mark.parametrize("module, choice", [(None, "auto"), (SimpleNamespace(), "CPU")])
def test_a_missing_onnxruntime_is_named(monkeypatch, module, choice):
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    with pytest.raises(ConsisIDError, match="pip install onnxruntime"):
        resolve_providers(choice)
