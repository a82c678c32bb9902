"""The manifest in its forms, and what is wrong with one."""

import json
import re

import pytest
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.manifest import Row, read_manifest
from helpers.evaluation import PROMPT, write_manifest


def test_manifest_forms_are_read_alike(tmp_path):
    expected = [
        Row("a b.mp4", ("p.png",), PROMPT, "ours", "7"),
        Row("ü.mp4", ("p.png", "q.png"), "", "unnamed", ""),
    ]
    entries = [
        {"video": "a b.mp4", "reference": "p.png", "prompt": PROMPT, "system": "ours", "seed": 7, "extra": [1]},
        {"video": "ü.mp4", "reference": ["p.png", "q.png"], "prompt": None},
    ]
    write_manifest(tmp_path, [("a b.mp4", "p.png", PROMPT, "ours", 7), (" ü.mp4", "p.png; q.png;", "", "", "")])
    assert read_manifest(tmp_path) == expected
    (tmp_path / "manifest.csv").unlink()
    for text in (json.dumps(entries, indent=1), "\n\n".join(map(json.dumps, entries))):
        (tmp_path / "manifest.json").write_text(text, encoding="utf-8-sig")
        assert read_manifest(tmp_path) == expected


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("manifest.csv", b"", "has no column video and no column reference; it is empty"),
        ("manifest.csv", b"video,prompt\na.mp4,x\n", "has no column reference; it has 'video', 'prompt'"),
        ("manifest.csv", b"video;reference\na.mp4;x\n", "it has 'video;reference'"),
        ("manifest.csv", b"video,reference\n", "lists no video"),
        ("manifest.csv", b"video,reference\na.mp4,p.png\n,p.png\n", "line 3 has no video"),
        ("manifest.csv", b"video,reference\na.mp4,;\n", "line 2 has no reference"),
        ("manifest.csv", b"video,reference,prompt\na.mp4,p.png,A man, walking\n", "line 2 has more values than"),
        ("manifest.csv", b'video,reference\n"a.mp4,p.png\n', "is not readable as CSV"),
        ("manifest.csv", "video,reference\nü.mp4,p.png\n".encode("latin-1"), "is not UTF-8"),
        ("manifest.json", b"[]", "lists no video"),
        ("manifest.json", b'[{"video": "a.mp4"}]', "entry 1 has no reference"),
        ("manifest.json", b'[{"video": "a.mp4", "reference": "p"},]', "is not valid JSON"),
        ("manifest.json", b'{"video": "a.mp4", "reference": "p"}\n{"video"', "line 2 is not valid JSON"),
        ("manifest.json", b'["a.mp4"]', "entry 1 is no object"),
        ("manifest.json", b'[{"video": {"a": 1}, "reference": "p"}]', "entry 1: video must be a text"),
    ],
)
def test_unusable_manifest_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ConsisIDError, match=re.escape(message)) as error:
        read_manifest(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_which_manifest(tmp_path):
    with pytest.raises(ConsisIDError, match="holds no manifest.csv. Its first line names the columns"):
        read_manifest(tmp_path)
    with pytest.raises(ConsisIDError, match="is not a folder"):
        read_manifest(tmp_path / "none")
    for name in ("manifest.csv", "manifest.json"):
        (tmp_path / name).touch()
    with pytest.raises(ConsisIDError, match="holds both"):
        read_manifest(tmp_path)
