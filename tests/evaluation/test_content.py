"""Results follow the contents of videos, photos and nets, not their names, dates and places."""

import os
import shutil
import struct

import pytest
import torch
from consisid_pack.consisid_core.evaluation.content import digests, fingerprint
from consisid_pack.consisid_core.evaluation.models import model_files
from consisid_pack.consisid_core.evaluation.nets.curricularface import CurricularFace
from helpers.evaluation import ROWS, TINY_STAGES, read_lines, run, write_manifest


def replace(file, content):
    """Another file of the same name, size and date."""
    before = file.stat()
    assert len(content) == before.st_size
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def padded(content, size):
    """An MP4 file with an empty box at its end."""
    length = size - len(content)
    return content + struct.pack(">I4s", length, b"free") + bytes(length - 8)


def test_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    paths = [tmp_path / "a", tmp_path / "gone", tmp_path, tmp_path / "zero\0byte", tmp_path / "a"]
    assert digests(paths) == {
        paths[0]: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", paths[1]: None, paths[2]: None,
        paths[3]: None,
    }  # fmt: skip


@pytest.fixture
def nets(tmp_path):
    """The arguments of `model_files`, with files that stand for nets."""
    folder = tmp_path / "nets"
    names = ("pack/det.onnx", "pack/rec.onnx", "curricular.bin", "inception.pth", "clip/config.json", "clip/merges.txt")
    for name in (*names, "clip/pytorch_model.bin", "clip/README.md", "pack/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return [folder / name for name in ("pack", "curricular.bin", "inception.pth", "clip")]


def test_fingerprint_is_that_of_the_contents(nets, tmp_path):
    before = fingerprint(model_files(*nets))
    folder = shutil.copytree(nets[0].parent, tmp_path / "elsewhere", copy_function=shutil.copy)
    copies = [folder / path.name for path in nets]
    assert fingerprint(model_files(*copies)) == before
    for name in ("clip/README.md", "pack/notes.txt"):
        (folder / name).write_text("Nothing that a net is read from.")
    assert fingerprint(model_files(*copies)) == before
    assert fingerprint(model_files(*copies[:3])) != before
    found = {before}
    for name in ("pack/rec.onnx", "curricular.bin", "inception.pth", "clip/merges.txt", "clip/pytorch_model.bin"):
        replace(folder / name, (folder / name).read_bytes()[::-1])
        found.add(fingerprint(model_files(*copies)))
    assert len(found) == 6


def test_another_video_of_the_same_name_size_and_date_is_scored(run_dir, comfyui):
    write_manifest(run_dir, ROWS[:1])
    first, second = ((run_dir / name).read_bytes() for name in ("ours/a.mp4", "ours/b.mp4"))
    size = max(len(first), len(second)) + 8
    (run_dir / "ours/a.mp4").write_bytes(padded(first, size))
    assert run(run_dir, comfyui) == 0
    replace(run_dir / "ours/a.mp4", padded(second, size))
    assert run(run_dir, comfyui) == 0
    assert [line["frames"] for line in read_lines(run_dir)] == [6, 5]


def test_another_net_of_the_same_name_size_and_date_measures_anew(run_dir, comfyui, tmp_path):
    write_manifest(run_dir, ROWS[:2])
    file = tmp_path / "curricular.bin"
    contents = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(CurricularFace(TINY_STAGES).state_dict(), file)
        contents.append(file.read_bytes())
    assert run(run_dir, comfyui, "--curricular-face", file) == 0
    replace(file, contents[0])
    assert run(run_dir, comfyui, "--curricular-face", file) == 0
    old, new = (lines[:2] for lines in (read_lines(run_dir), read_lines(run_dir)[2:]))
    assert len(new) == 2
    for before, after in zip(old, new, strict=True):
        assert before["models"] == after["models"] and before["face_sim_arc"] == after["face_sim_arc"]
        assert before["face_sim_cur"] != after["face_sim_cur"]


def test_a_copied_run_with_new_dates_is_not_scored_again(scored, comfyui, tmp_path, capsys):
    folder = shutil.copytree(scored, tmp_path / "copy of the run", copy_function=shutil.copyfile)
    for file in folder.rglob("*"):
        os.utime(file, (0, 0))
    write_manifest(folder, ROWS[:4])
    before = read_lines(folder)
    assert run(folder, comfyui) == 0
    assert read_lines(folder) == before
    assert "4 of 4 videos have their scores" in capsys.readouterr().out
