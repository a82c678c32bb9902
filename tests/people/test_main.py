"""The command."""

import os
import shutil
import subprocess
import sys

import pytest
from consisid_pack.consisid_core.people import head_data
from consisid_pack.consisid_core.people.__main__ import main
from helpers import ROOT
from helpers.people import head_file


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONSISID_CACHE", str(tmp_path / "cache"))
    head_data.default_path().parent.mkdir()
    shutil.copy(head_file(), head_data.default_path())
    return tmp_path / "cache"


def arguments(out, *more):
    return [str(out), "--people", "3", "--clips", "1", "--size", "40x32", "--frames", "2", "--seed", "1", *more]


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_processes_do_not_change_a_byte(cache, tmp_path, capsys):
    assert main(arguments(tmp_path / "one", "--workers", "1")) == 0
    said = capsys.readouterr()
    assert "3 people in 3 clips" in said.out and "Ancestry, as people with most of it" in said.out
    assert "3/3" in said.err
    command = [sys.executable, "-m", "consisid_core.people", *arguments(tmp_path / "two", "--workers", "2")]
    environment = {**os.environ, "CONSISID_CACHE": str(cache)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_problems_are_sentences(cache, tmp_path, capsys):
    assert main(arguments(tmp_path / "set", "--frames", "0")) == 1
    assert capsys.readouterr().err == "error: --frames is 0. Choose 1 or more.\n"
    (tmp_path / "file").write_text("")
    assert main(arguments(tmp_path / "file" / "set")) == 1
    assert "error: " in capsys.readouterr().err


def test_without_numba(monkeypatch, tmp_path, capsys):
    for name in [name for name in sys.modules if name.startswith("consisid_pack.consisid_core.people.")]:
        if not name.endswith("__main__"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    assert main(arguments(tmp_path / "set")) == 1
    assert "error: The people are drawn with numba: pip install numba" in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["set"], ["set", "--people", "2", "--size", "96"], ["set", "--people", "two"]])
def test_wrong_usage(given, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(given)
    assert stopped.value.code == 2
    assert "usage: python -m consisid_core.people" in capsys.readouterr().err
