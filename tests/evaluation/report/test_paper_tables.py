"""The paper's tables."""

from consisid_pack.consisid_core.evaluation.report.paper_tables import PAPER_TABLES


def test_paper_tables():
    tables = {table.id: dict(table.rows) for table in PAPER_TABLES}
    assert list(tables) == ["Table 1", "Table 2", "Table 3", "Table 4"]
    assert tables["Table 1"]["ConsisID"] == (0.58, 0.60, 27.93, 151.82)
    assert tables["Table 1"]["ID-Animator"] == (0.32, 0.33, 24.97, 117.46)
    assert tables["Table 2"]["full"] == (0.73, 0.75, 36.77, 127.42)
    assert tables["Table 2"]["without coarse-to-fine training (CFT)"] == (0.54, 0.58, 34.47, 144.62)
    assert tables["Table 4"]["50 steps"] == (0.52, 0.54, 33.08, 163.68, 100)
    assert tables["Table 4"]["200 steps"] == (0.33, 0.39, 31.18, 166.79, 440)
    # Three ablations are in two tables.
    assert [tables["Table 3"][name] for name in list(tables["Table 3"])[:3]] == [
        tables["Table 2"][name] for name in ("without global extractor (GFE)", "without local extractor (LFE)", "full")
    ]
    assert [len(rows) for rows in tables.values()] == [3, 6, 7, 8]
    for table in PAPER_TABLES:
        assert {len(values) for _, values in table.rows if values} == {len(table.columns)}
