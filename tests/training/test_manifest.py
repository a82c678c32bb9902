"""Our manifest: what a line may say, and a sentence for each line that is wrong."""

import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.training.manifest import EXAMPLE, Record, read_manifest


def write(folder, text, encoding="utf-8"):
    file = folder / "list.jsonl"
    file.write_bytes(text.encode(encoding))
    return file


def test_lines_become_records(tmp_path):
    text = (
        "\ufeff"
        + EXAMPLE
        + '\n\n{"video": "/b.mp4", "person": " ben ", "mask": "masks/b", "faces": ["b1.png", "b2.png"], '
        '"fps": 30, "caption": " Zoë läuft. "}\n{"video": "c.mp4", "person": "c", "caption": null}\n'
    )
    first, second, third = read_manifest(write(tmp_path, text))
    assert first == Record("videos/anna.mp4", tmp_path / "videos/anna.mp4", "A woman reads a book.", "anna")
    assert (str(second.video), second.person, second.caption, second.fps) == ("/b.mp4", "ben", "Zoë läuft.", 30)
    assert second.mask == tmp_path / "masks/b"
    assert second.faces == (tmp_path / "b1.png", tmp_path / "b2.png")
    assert third.caption == "" and third.mask is None and third.faces == () and third.frames is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("video.mp4,A woman", "it is not valid JSON"),
        ("[1]", "it is no JSON object"),
        ("[" * 100_000, "it is not valid JSON"),
        ('{"video": "a.mp4", "person": "a", "captoin": "x"}', "there is no 'captoin'; did you mean 'caption'?"),
        ('{"video": "a.mp4", "person": "a", "zzz": "x"}', "there is no 'zzz'; known are video, person, caption"),
        ('{"person": "a"}', "it has no video"),
        ('{"video": "a.mp4", "person": " "}', "it has no person"),
        ('{"video": 3, "person": "a"}', "video must be a text, and is 3"),
        ('{"video": "a.mp4", "person": "a", "faces": "b.png"}', 'faces must be a list of paths, and is "b.png"'),
        ('{"video": "a.mp4", "person": "a", "fps": "30"}', 'fps must be a number above 0, and is "30"'),
        ('{"video": "a.mp4", "person": "a", "fps": true}', "fps must be a number above 0, and is true"),
        ('{"video": "a.mp4", "person": "a", "fps": 0}', "fps must be a number above 0, and is 0"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, problem):
    with pytest.raises(ConsisIDError) as caught:
        read_manifest(write(tmp_path, f"{EXAMPLE}\n\n{line}\n"))
    first, second = str(caught.value).split("\n")
    assert first == f"{tmp_path / 'list.jsonl'} has 1 line to correct."
    assert second.startswith(f"line 3: {problem}")


def test_all_wrong_lines_are_named_at_once(tmp_path):
    with pytest.raises(ConsisIDError) as caught:
        read_manifest(write(tmp_path, "\n".join(["{}", EXAMPLE, *["{}"] * 12])))
    lines = str(caught.value).split("\n")
    assert "13 lines to correct" in lines[0] and lines[1].startswith("line 1:") and lines[2].startswith("line 3:")
    assert len(lines) == 12 and lines[-1] == "and 3 more."


@pytest.mark.parametrize(
    ("text", "encoding", "problem"),
    [(" \n\n", "utf-8", "lists no video"), ('{"video": "ä"}', "latin-1", "is not UTF-8")],
)
def test_a_manifest_without_lines_is_told(tmp_path, text, encoding, problem):
    with pytest.raises(ConsisIDError, match=problem):
        read_manifest(write(tmp_path, text, encoding))


def test_a_missing_manifest_is_told(tmp_path):
    with pytest.raises(ConsisIDError, match=r"list.jsonl cannot be read \(No such file"):
        read_manifest(tmp_path / "list.jsonl")
