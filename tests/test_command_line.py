"""How commands end."""

import argparse

import pytest
from consisid_pack.consisid_core.command_line import at_least, run_command
from consisid_pack.consisid_core.errors import ConsisIDError


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize("result, code", [(None, 0), (0, 0), (1, 1)])
def test_a_command_that_ends_by_itself_says_its_exit_code(capsys, result, code):
    assert run_command(lambda: result, "out") == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error, code, line",
    [
        (ConsisIDError("a.mp4 is empty."), 1, "error: a.mp4 is empty.\n"),
        (OSError(28, "No space left on device"), 1, "error: out: No space left on device.\n"),
        (PermissionError(13, "Permission denied", "x.csv"), 1, "error: x.csv: Permission denied.\n"),
        (OSError("odd"), 1, "error: out: odd.\n"),
        (KeyboardInterrupt(), 130, "\nStopped; nothing was changed.\n"),
    ],
)
def test_what_ends_a_command_early_is_one_line(capsys, error, code, line):
    assert run_command(raising(error), "out", "nothing was changed") == code
    assert capsys.readouterr() == ("", line)


def test_a_stop_that_leaves_nothing_to_say(capsys):
    assert run_command(raising(KeyboardInterrupt()), "out") == 130
    assert capsys.readouterr().err == "\nStopped.\n"


def test_other_errors_are_ours_and_keep_their_trace():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0, "out")


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "many", ""])
def test_whole_numbers_have_a_least_one(text):
    assert at_least(1)("12") == 12
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a whole number from 1 on"):
        at_least(1)(text)
