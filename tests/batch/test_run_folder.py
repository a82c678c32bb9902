import json
import threading

import pytest
from consisid_pack.consisid_core.batch.run_folder import RunFolder
from consisid_pack.consisid_core.batch.tasks import File, Kind, Outcome
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.batch import lines, made, task


def test_a_video_and_its_line_are_found_again(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.held():
        folder.take(task("a"), made(task("a"), b"12345"), attempts=2)
        folder.keep("b", "video_b", Outcome("b", Kind.REFUSED, "No face."))
    again = RunFolder(tmp_path)
    assert again.made("a").read_bytes() == b"12345" and again.made("a").name == "video_a.mp4"
    assert again.made("b") is None and again.is_refused("b") and not again.is_refused("a")
    assert again.failure("b")["error"] == "No face." and again.seconds() == [0.1] and again.any_video()
    assert [line["attempts"] for line in lines(tmp_path)] == [2, 1]


def test_a_video_that_is_gone_or_cut_is_missing(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.held():
        folder.take(task("a"), made(task("a"), b"12345"))
    (tmp_path / "videos" / "video_a.mp4").write_bytes(b"123")
    assert RunFolder(tmp_path).made("a") is None
    (tmp_path / "videos" / "video_a.mp4").unlink()
    assert RunFolder(tmp_path).made("a") is None


def test_what_failed_and_was_then_made_is_made(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.held():
        folder.keep("a", "video_a", Outcome("a", Kind.LOST, "Gone."))
        folder.take(task("a"), made(task("a")))
        folder.keep("a", "video_a", Outcome("a", Kind.LOST, "Gone."))
    assert RunFolder(tmp_path).made("a") and not RunFolder(tmp_path).failure("a")


def test_one_program_at_a_time(tmp_path):
    with RunFolder(tmp_path).held():
        with pytest.raises(ConsisIDError, match=r"is being worked on by process \d+ on .*name another folder"):
            with RunFolder(tmp_path).held():
                pass
    with RunFolder(tmp_path).held():
        pass


def test_videos_of_something_else_are_left_alone(tmp_path):
    (tmp_path / "videos").mkdir()
    RunFolder(tmp_path)
    (tmp_path / "videos" / "mine.mp4").write_bytes(b"mine")
    with pytest.raises(ConsisIDError, match="holds files that no run has made"):
        RunFolder(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "batch").write_text("a file")
    with pytest.raises(ConsisIDError, match="cannot be written"), RunFolder(tmp_path).held():
        pass


def test_workers_that_share_the_folder_write_files_of_their_own(tmp_path):
    driver = RunFolder(tmp_path)
    with driver.held():
        worker = RunFolder(tmp_path)
        shared = driver.share(File("photo_1.png", b"photo"))
        assert shared.read() == b"photo" and shared.content.is_relative_to(tmp_path) and driver.share(shared) is shared

        def work():
            with worker.results.writing():
                worker.take(task("a"), made(task("a")))
                worker.take(task("face", is_face=True), made(task("face"), b"face"))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert driver.made("a") is None
        driver.results.read_on()
        assert driver.made("a") and driver.identity("face").read_bytes() == b"face"
    assert len(list((tmp_path / "batch").glob("results_videos*.jsonl"))) == 2


def test_the_manifest_is_read_by_the_evaluation(tmp_path):
    from consisid_pack.consisid_core.evaluation.manifest import read_manifest

    folder = RunFolder(tmp_path)
    with folder.held():
        folder.take(task("a"), made(task("a")))
        row = {"video": folder.made("a"), "reference": [tmp_path / "photos" / "anna.png"], "prompt": "Liest, läuft."}
        file = folder.write_manifest([row | {"system": "ours", "seed": "7"}])
    assert json.loads(file.read_text(encoding="utf-8"))["reference"] == ["../photos/anna.png"]
    (read,) = read_manifest(folder.videos)
    assert (read.video, read.references, read.seed) == ("video_a.mp4", ("../photos/anna.png",), "7")
    assert read.prompt == "Liest, läuft." and (folder.videos / read.video).is_file()
