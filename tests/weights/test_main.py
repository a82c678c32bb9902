"""The command's own words and exit codes. Its commands: test_download.py, test_check.py, test_convert.py."""

from consisid_pack.consisid_core.weights.__main__ import main
from helpers.weights_command import run


def test_usage_errors_and_help():
    assert run("fetch")[0] == 2
    assert run("download", "--part", "teapot")[0] == 2
    code, out, _ = run("--help")
    assert code == 0 and all(command in out for command in ("list", "download", "check", "convert"))


def test_an_error_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert main(["list", str(tmp_path / "absent")]) == 1
    out, err = capsys.readouterr()
    assert (
        not out
        and err == f"error: {tmp_path / 'absent'} is not a folder. Name ComfyUI's folder, or its models folder.\n"
    )


def test_check_may_be_written_as_an_option(tmp_path, capsys):
    (tmp_path / "models").mkdir()
    assert main(["--check", str(tmp_path), "--part", "vae"]) == main(["check", str(tmp_path), "--part", "vae"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.startswith("vae: WRONG: missing; it belongs at")
