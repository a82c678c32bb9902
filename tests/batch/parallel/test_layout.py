import pytest
from consisid_pack.consisid_core.batch.parallel.layout import Layout, check_size, choose_layout, shares
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.model.config import TransformerConfig


@pytest.mark.parametrize(
    ("processes", "guided", "asked", "expected"),
    [
        (1, True, {}, Layout()),
        (2, True, {}, Layout(cfg=2)),
        (2, False, {}, Layout(ring=2)),
        (3, True, {}, Layout(ring=3)),
        (4, True, {}, Layout(cfg=2, ring=2)),
        (5, True, {}, Layout(ring=5)),  # 5 does not divide the heads.
        (6, True, {}, Layout(cfg=2, ring=3)),
        (8, True, {}, Layout(cfg=2, ulysses=4)),
        (4, True, {"ulysses": 2}, Layout(cfg=2, ulysses=2)),
        (4, True, {"ulysses": 4}, Layout(ulysses=4)),
        (4, True, {"cfg": 1, "ulysses": 2}, Layout(ring=2, ulysses=2)),
        (8, True, {"ring": 2}, Layout(cfg=2, ring=2, ulysses=2)),
    ],
)  # fmt: skip
def test_layout_for_so_many_processes(processes, guided, asked, expected):
    assert choose_layout(processes, 48, guided, **asked) == expected


@pytest.mark.parametrize(
    ("processes", "guided", "asked", "message"),
    [
        (4, True, {"ring": 3}, "--cfg-split 1 x --ring 3 x --ulysses 1 is a layout for 3 processes, but there are 4"),
        (1, True, {"ring": 2}, "--cfg-split 1 x --ring 2 x --ulysses 1 is a layout for 2 processes, but there are 1"),
        (4, True, {"cfg": 4}, "--cfg-split is 1 or 2, not 4"),
        (2, False, {"cfg": 2}, "At --guidance 1 no negative prompt is evaluated"),
        (5, True, {"ulysses": 5}, "--ulysses 5 does not divide the 48 heads of the net; 1, 2, 3, 4, 6, 8, 12"),
    ],
)
def test_impossible_layouts_are_refused(processes, guided, asked, message):
    with pytest.raises(ConsisIDError, match=message):
        choose_layout(processes, 48, guided, **asked)


def test_videos_too_small_are_refused():
    config = TransformerConfig(max_text_length=1)
    check_size(Layout(cfg=2, ring=2), config, (1, 4, 4))
    with pytest.raises(ConsisIDError, match="16 pixels in height has 2 rows of latents, which 4 processes"):
        check_size(Layout(cfg=2, ring=2), config, (1, 2, 4))
    with pytest.raises(ConsisIDError, match="A video of 2 tokens does not split into 3"):
        check_size(Layout(ring=3), config, (1, 2, 2))


def test_names():
    assert [str(layout) for layout in (Layout(), Layout(cfg=2, ring=3), Layout(ulysses=2))] == [
        "one process", "CFG 2 x ring 3", "Ulysses 2",
    ]  # fmt: skip


def test_shares_are_as_equal_as_can_be():
    assert shares(17776, 3) == [5926, 5925, 5925] and shares(8, 4) == [2] * 4
