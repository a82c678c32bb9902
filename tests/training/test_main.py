"""The command's dispatcher."""

import pytest
from consisid_pack.consisid_core.training import __main__ as module


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [([], 2, "usage"), (["-h"], 0, "prepare"), (["prepair"], 2, "there is no command 'prepair'")],
)
def test_usage(arguments, code, words, capsys):
    assert module.main(arguments) == code
    assert words in "".join(capsys.readouterr())
