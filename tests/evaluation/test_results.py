"""Files of results: damaged, and written by several processes at once."""

import json
import os
import shutil
import signal

from consisid_pack.consisid_core.evaluation.results import Results
from helpers.evaluation import FAILED, ROWS, read_lines, results_files, run, start, wait_for_lines, write_manifest
from helpers.processes import SECONDS, wait_until


def test_damaged_line_costs_its_video_only(scored, comfyui, tmp_path, caplog):
    folder = shutil.copytree(scored, tmp_path / "run", copy_function=shutil.copy2)
    (file,) = results_files(folder)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join([lines[0], "\0\0\0\n", *lines[2:]]), encoding="utf-8")
    write_manifest(folder, ROWS[:-FAILED])
    assert run(folder, comfyui) == 0
    assert "line 2 is damaged" in caplog.text
    assert json.loads(file.read_text(encoding="utf-8").splitlines()[-1]) == json.loads(lines[1])


def test_every_process_writes_a_file_of_its_own(tmp_path):
    ours, theirs = (Results(tmp_path / "evaluation", "strict") for _ in range(2))
    with ours.writing():
        ours.write({"key": "a", "figure": 1})
        with theirs.writing():
            theirs.write({"key": "b", "figure": 2})
            assert len(results_files(tmp_path)) == 2
            assert theirs.read_on() and theirs.is_done("a")
            assert not theirs.read_on()
        assert ours.read_on() and ours.is_done("b")
        # The file that has become free is taken, the one that is in use is not.
        with theirs.writing():
            theirs.write({"key": "c"})
        assert len(results_files(tmp_path)) == 2
    assert Results(tmp_path / "evaluation", "strict").by_key.keys() == {"a", "b", "c"}
    assert not Results(tmp_path / "evaluation", "paper").by_key


def test_a_line_that_is_being_written_is_left_alone(tmp_path):
    folder = tmp_path / "evaluation"
    ours = Results(folder, "strict")
    with ours.writing(), open(folder / "results_strict.elsewhere.jsonl", "ab", buffering=0) as theirs:
        theirs.write(b'{"key": ')
        ours.write({"key": "a"})
        assert not ours.read_on() and ours.by_key.keys() == {"a"}
        theirs.write(b'"b"}\n')
        assert ours.read_on() and ours.by_key.keys() == {"a", "b"}
    assert {line["key"] for line in read_lines(tmp_path)} == {"a", "b"}


def test_what_a_killed_process_left_is_read_and_its_half_line_goes(tmp_path):
    folder = tmp_path / "evaluation"
    results = Results(folder, "strict")
    with results.writing():
        results.write({"key": "a"})
    (own,) = results_files(tmp_path)
    with open(own, "ab") as stream:
        stream.write(b'{"key": "b", "fig')
    (folder / "results_strict.jsonl").write_text('{"key": "c"}\n{"key": "d')  # Of a machine that nobody knows.
    results = Results(folder, "strict")
    assert results.by_key.keys() == {"a", "c"}
    with results.writing():
        results.write({"key": "e"})
    assert Results(folder, "strict").by_key.keys() == {"a", "c", "e"}
    assert (folder / "results_strict.jsonl").read_text().endswith('{"key": "d')


def test_a_failure_does_not_replace_a_result(tmp_path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    lines = [{"key": "a", "figure": 1}, {"key": "a", "error": "x"}, {"key": "b", "error": "x"}, {"key": "b"}]
    (folder / "results_paper.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = Results(folder, "paper")
    assert results.is_done("a") and results.is_done("b") and not results.is_done("c")


def test_two_processes_share_a_run(run_dir, scored, comfyui):
    first = start(run_dir, comfyui)
    wait_for_files(run_dir, 1, first)
    os.kill(first.pid, signal.SIGSTOP)  # Or it may be done before the other has started.
    second = start(run_dir, comfyui)
    wait_for_files(run_dir, 2, second)
    os.kill(first.pid, signal.SIGCONT)
    processes = [first, second]
    errors = [process.communicate(timeout=SECONDS)[1] for process in processes]
    assert not any("Traceback" in error or "computed anew" in error for error in errors), errors
    assert [process.returncode for process in processes] == [1, 1]
    assert len(results_files(run_dir)) == 2
    check_complete(run_dir, scored)
    print(len(read_lines(run_dir)), "lines of", len(ROWS), "rows")


def test_a_process_goes_on_where_another_was_killed(run_dir, scored, comfyui):
    killed, other = start(run_dir, comfyui), start(run_dir, comfyui)
    wait_for_lines(run_dir, 1, killed)
    killed.kill()
    killed.communicate()
    _, error = other.communicate(timeout=SECONDS)
    assert other.returncode == 1 and "Traceback" not in error
    check_complete(run_dir, scored)
    # Its file is the next one's.
    count = len(results_files(run_dir))
    assert run(run_dir, comfyui) == 1
    assert len(results_files(run_dir)) == count


def wait_for_files(folder, count, process):
    """Until so many processes have a file of results."""
    wait_until(lambda: len(results_files(folder)) >= count, process)


def check_complete(folder, scored):
    """Every row has its lines, as those of a process alone, and so has the report."""
    expected, lines = read_lines(scored), read_lines(folder)
    assert {json.dumps(line) for line in lines} == {json.dumps(line) for line in expected}
    for name in ("summary_strict.md", "summary_strict.csv", "table_strict.tex", "report_strict.html"):
        assert (folder / "evaluation" / name).read_bytes() == (scored / "evaluation" / name).read_bytes()
    assert not list((folder / "evaluation").rglob("*.part"))
