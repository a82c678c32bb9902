"""The figures of docs/memory.md are those that the command prints."""

import pytest
from consisid_pack.consisid_core.dev.memory import GIB, other_rows, transformer_rows
from helpers import ROOT

TABLE = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8").split("| Part |")[1].split("\n\n")[0].splitlines()


@pytest.mark.parametrize(
    ("part", "printed"),
    [
        ("Transformer, bf16", "Transformer bf16,"),
        ("Transformer, fp8", "Transformer fp8,"),
        ("Transformer streamed", "Transformer bf16 streamed,"),
    ],
)
def test_transformer(part, printed):
    (line,) = [line for line in TABLE if line.startswith(f"| {part}")]
    rows = [row for row in transformer_rows() if row[0].startswith(printed)]
    assert len(rows) == 2
    for _, weights, activations, host, _ in rows:
        for size in {weights, activations, weights if "streamed" not in part else host}:
            assert f"{size / GIB:.2f}" in line


def test_text_encoder_and_face_nets():
    for _, weights, *_ in other_rows():
        assert sum(f"| {weights / GIB:.2f}" in line for line in TABLE) == 1
