import pytest
from consisid_pack.consisid_core.batch.protocol import lay_out
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.batch import plain_graph, write_run


@pytest.fixture
def run_dir(tmp_path):
    """A run folder without a manifest, with three photos, and prompts beside it."""
    write_run(tmp_path / "run", plain_graph(), "")
    (tmp_path / "run" / "manifest.csv").unlink()
    (tmp_path / "prompts.txt").write_text('A woman reads, "aloud".\n\nA man walks.\n', encoding="utf-8")
    return tmp_path / "run"


def test_every_photo_with_every_prompt_and_seed(run_dir, tmp_path, capsys):
    rows = lay_out(run_dir, run_dir / "photos", tmp_path / "prompts.txt", 2)
    assert "3 people, 3 photos x 2 prompts x 2 seeds = 12 videos" in capsys.readouterr().out
    assert len(rows) == 12 and rows[0].photos == ("photos/anna.png",) and rows[0].system == "ConsisID"
    assert rows[1].values == {"prompt": 'A woman reads, "aloud".', "seed": "1"}
    assert len({(row.photos, *row.values.values()) for row in rows}) == 12
    # The same once more goes on; another table is not written over it.
    assert lay_out(run_dir, run_dir / "photos", tmp_path / "prompts.txt", 2) == rows
    before = (run_dir / "manifest.csv").read_bytes()
    with pytest.raises(ConsisIDError, match="lists other videos"):
        lay_out(run_dir, run_dir / "photos", tmp_path / "prompts.txt", 3)
    assert (run_dir / "manifest.csv").read_bytes() == before


def test_a_folder_for_each_person(run_dir, tmp_path, capsys):
    people = tmp_path / "people"
    for person in "ab":
        (people / person).mkdir(parents=True)
        for number in range(5):
            (people / person / f"{number}.png").write_bytes((run_dir / "photos" / "anna.png").read_bytes())
    rows = lay_out(run_dir, people, tmp_path / "prompts.txt", 1)
    assert "2 people, 10 photos x 2 prompts" in capsys.readouterr().out
    assert rows[0].photos == (str(people / "a" / "0.png"),)


def test_counting_writes_nothing(run_dir, tmp_path):
    assert len(lay_out(run_dir, run_dir / "photos", tmp_path / "prompts.txt", 2, write=False)) == 12
    assert not (run_dir / "manifest.csv").exists()


def test_what_is_missing_is_named(run_dir, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    for people, prompts, message in (
        (tmp_path / "none", "prompts.txt", "none is not a folder"),
        (tmp_path / "empty", "prompts.txt", "holds no photo"),
        (run_dir / "photos", "empty.txt", "holds no prompt"),
        (run_dir / "photos", "none.txt", "cannot be read"),
    ):
        with pytest.raises(ConsisIDError, match=message):
            lay_out(run_dir, people, tmp_path / prompts, 1)
