import pytest
from consisid_pack.consisid_core.batch.table import read_table
from consisid_pack.consisid_core.errors import ConsisIDError
from helpers.batch import plain_graph, write_run


def table(folder, manifest):
    return read_table(write_run(folder, plain_graph(), manifest))


def test_rows_hold_what_the_graph_is_told(tmp_path):
    rows = table(
        tmp_path,
        "Photo,prompt,seed,system,14.steps\nphotos/anna.png; photos/eve.png,Reads.,7,ours,20\n,,,,\n,Walks.,,,",
    )
    assert [row.photos for row in rows] == [("photos/anna.png", "photos/eve.png"), ()]
    assert [row.values for row in rows] == [{"prompt": "Reads.", "seed": "7", "14.steps": "20"}, {"prompt": "Walks."}]
    assert [row.system for row in rows] == ["ours", "unnamed"]
    assert rows[1].place.endswith("manifest.csv, line 4")


def test_json_rows_keep_their_numbers_and_lists(tmp_path):
    folder = write_run(tmp_path, plain_graph(), "")
    (folder / "manifest.csv").unlink()
    (folder / "manifest.json").write_text('[{"photo": ["photos/anna.png", "photos/eve.png"], "seed": 7, "a.b": true}]')
    (row,) = read_table(folder)
    assert row.photos == ("photos/anna.png", "photos/eve.png") and row.values == {"seed": 7, "a.b": True}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("promt\nReads.", r"line 2: there is no column 'promt'; did you mean 'prompt'\?.*'14.promt'"),
        ("steps\n3", r"no column 'steps'; there are photo, prompt, negative, seed, system"),
        ("photo\nphotos/nobody.png", r"line 2: there is no photo photos/nobody.png in .*Correct its path"),
        ("photo,prompt\na.png,x\nphotos/anna.png,x\nb.png,x", r"(?s)2 rows to correct.*line 2:.*a.png.*line 4:.*b.png"),
        ("prompt,prompt\na,b", "several columns named prompt"),
        ("", "manifest.csv lists no video.*photos/anna.png"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, manifest, message):
    with pytest.raises(ConsisIDError, match=message):
        table(tmp_path, manifest)


def test_a_folder_without_manifest_shows_one(tmp_path):
    with pytest.raises(ConsisIDError, match="holds no manifest.csv.*14.steps"):
        read_table(tmp_path)
