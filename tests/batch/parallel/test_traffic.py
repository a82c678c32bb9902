"""The counted bytes against those that were sent, and the table in the documents."""

from consisid_pack.consisid_core.batch.parallel.layout import Layout
from consisid_pack.consisid_core.batch.parallel.traffic import Size, sent_in_step, table
from consisid_pack.consisid_core.model.config import TransformerConfig
from helpers import ROOT
from helpers.parallel import LATENTS, TEXT


def test_counted_bytes_are_sent(compared):
    config = TransformerConfig(num_layers=4, num_heads=12, head_dim=16, max_text_length=TEXT)
    size = Size(config, LATENTS, value_bytes=4)
    for rank, found in enumerate(compared):
        for name, (_, sent) in found.items():
            if not name.startswith("video"):
                assert sent == sent_in_step(Layout(*map(int, name.split())), size, rank), (name, rank)


def test_documents_have_the_table():
    assert table(Size()) in (ROOT / "docs" / "parallel.md").read_text(encoding="utf-8")
    assert Size().tokens == 17776
