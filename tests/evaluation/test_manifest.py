"""The manifest in its forms, and what is wrong with one."""

import csv
import io
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


LINES = """video,reference,prompt,system
a.mp4,p.png;q.png,"A man, walking",ours
b.mp4,p.png,"A
man",

c.mp4,p.png,,
"""


def separated_by(sign):
    """LINES with another sign between the columns, quoted as spreadsheets quote it."""
    stream = io.StringIO()
    csv.writer(stream, delimiter=sign).writerows(csv.reader(io.StringIO(LINES)))
    return stream.getvalue()


SPREADSHEETS = {
    "Excel, CSV UTF-8": LINES.replace("\n", "\r\n").encode("utf-8-sig"),
    "Excel of Europe": separated_by(";").encode("utf-8-sig"),
    "Excel, Unicode text": separated_by("\t").encode("utf-16"),
    "Windows PowerShell": LINES.encode("utf-16"),
    "old Mac": LINES.replace("\n", "\r").encode(),
    "empty rows": LINES.replace("\n\n", "\n,,,\n").encode() + b",,,\n , , , \n",
    "empty rows, longer than the header": LINES.encode() + b",,,,,,\n",
    "empty rows before the header": b",,,\n\n" + LINES.encode(),
    "empty columns": LINES.replace("system\n", "system,,\n").replace("ours\n", "ours,,\n").encode(),
    "spaces": LINES.replace(",", ", ").replace("A man,  ", "A man, ").replace("video", " Video ").encode(),
    "an index in front": (LINES.replace("video", ",video").replace("a.mp4", "0,a.mp4"))
    .replace("b.mp4", "1,b.mp4").replace("c.mp4", "2,c.mp4").encode(),
}  # fmt: skip


@pytest.mark.parametrize("content", SPREADSHEETS.values(), ids=SPREADSHEETS.keys())
def test_manifests_as_spreadsheets_write_them(tmp_path, content):
    (tmp_path / "manifest.csv").write_bytes(content)
    first, second, third = read_manifest(tmp_path)
    assert first == Row("a.mp4", ("p.png", "q.png"), "A man, walking", "ours", "")
    assert second.prompt.split() == ["A", "man"] and len(second.prompt) in (5, 6)
    assert third == Row("c.mp4", ("p.png",), "", "unnamed", "")


def test_columns_that_are_not_read_are_named(tmp_path, caplog):
    (tmp_path / "manifest.csv").write_text("video,reference,promt,Notes\na,b,c,d\n")
    assert read_manifest(tmp_path) == [Row("a", ("b",), "", "unnamed", "")]
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path / 'manifest.csv'} has columns that are not read: notes, promt."
    caplog.clear()
    write_manifest(tmp_path)
    read_manifest(tmp_path)
    assert not caplog.records


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("manifest.csv", b"", "has no column video and no column reference; it is empty"),
        ("manifest.csv", b"video,prompt\na.mp4,x\n", "has no column reference; it has 'video', 'prompt'"),
        ("manifest.csv", b"video|reference\na.mp4|x\n", "it has 'video|reference'"),
        ("manifest.csv", b"video,reference\n", "lists no video"),
        ("manifest.csv", b"video,reference\na.mp4,p.png\n,p.png\n", "line 3 has no video"),
        ("manifest.csv", b"video,reference\na.mp4,;\n", "line 2 has no reference"),
        ("manifest.csv", b"video,reference\n,,\n,\n", "lists no video"),
        ("manifest.csv", b"video,reference,prompt\na.mp4,p.png,A man, walking\n", "line 2 has more values than"),
        ("manifest.csv", b"video,reference,,\na.mp4,p.png,,\nb.mp4,p.png, x,\n", "line 3 has more values than"),
        ("manifest.csv", b"video,reference,Video \na,p,b\n", "line 1 has several columns named video. Keep one"),
        ("manifest.csv", b'video,reference,prompt\na,p,"A\r\nman"\nb,p,"x\n', "line 4 is not readable as CSV"),
        ("manifest.csv", b'video,reference,prompt\na,p,"A\r\nman"\n\n,,\nb,,"A\nman"\n', "line 6 has no reference"),
        ("manifest.csv", b"video,reference\na.mp4,p\0.png\n", "line 2: reference holds a null character"),
        ("manifest.csv", b'video,reference\n"a.mp4,p.png\n', "is not readable as CSV"),
        ("manifest.csv", "video,reference\nü.mp4,p.png\n".encode("latin-1"), "is not UTF-8"),
        ("manifest.csv", "video,reference\na,b\nc,für\n".encode("cp1252"), "line 3 is not UTF-8"),
        ("manifest.csv", b"PK\x03\x04\x14\0\x08\xff\xfe", 'Save it as UTF-8; Excel calls that "CSV UTF-8".'),
        ("manifest.json", b"[]", "lists no video"),
        ("manifest.json", b'[{"video": "a", "video": "b", "reference": "p"}]', "several values named 'video'"),
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
