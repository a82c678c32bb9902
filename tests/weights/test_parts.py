"""The table of weight files, against the README that users read."""

import pytest
from consisid_pack.consisid_core.checkpoint.model_folders import ModelFolders
from consisid_pack.consisid_core.weights.parts import EVALUATION_PARTS, PARTS, human, is_disk_full, unfinished
from helpers import ROOT


def test_every_part_has_its_row_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for part in (*PARTS, *EVALUATION_PARTS):
        folder, _, file = f"models/{part.folder}/{part.target}".rpartition("/")
        (row,) = [row for row in readme.splitlines() if row.startswith("| ") and file in row and folder in row]
        assert part.licence.split(",")[0] in row, part.name


def test_a_part_lies_where_it_has_begun(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "extra_model_paths.yaml").write_text("large:\n  base_path: more\n  vae: vae\n")
    (vae,) = [part for part in PARTS if part.name == "vae"]
    folders = ModelFolders(tmp_path)
    assert vae.place(folders) == tmp_path / "models/vae/ConsisID-preview/vae"
    begun = tmp_path / "more/vae/ConsisID-preview/vae"
    unfinished(begun).parent.mkdir(parents=True)
    unfinished(begun).touch()
    assert vae.place(folders) == begun


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (16_900_000, "16.9 MB"), (12.4e9, "12.4 GB")]
)
def test_sizes_are_those_of_the_hub(size, text):
    assert human(size) == text


def test_full_disks_are_told_from_other_trouble():
    import errno

    assert is_disk_full(OSError(errno.ENOSPC, "")) and is_disk_full(OSError(errno.EFBIG, ""))
    assert not is_disk_full(OSError(errno.EACCES, "")) and not is_disk_full(ValueError())
