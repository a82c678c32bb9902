"""Shims between versions of ComfyUI, where no other test tells them apart."""

import dataclasses

import pytest
from comfy_api.latest import io
from consisid_pack.consisid_core.comfyui.compat import growing_inputs, growing_values, schema
from consisid_pack.consisid_core.errors import ConsisIDError


def test_search_aliases_are_kept_where_there_is_a_place_for_them():
    made = dataclasses.asdict(schema(["face"], node_id="Test", display_name="Test"))
    assert made["node_id"] == "Test" and made.get("search_aliases", ["face"]) == ["face"]


def test_growing_inputs_are_optional_and_go_by_their_names():
    inputs = growing_inputs("videos", io.Image, ["video_1", "video_2", "video_3"], shown=2)
    if hasattr(io, "Autogrow"):
        (growing,) = inputs
        assert growing.id == "videos" and growing.template.min == 2
        inputs = growing.template.get_all()
    assert [(i.id, i.get_io_type(), i.optional) for i in inputs] == [
        (name, "IMAGE", True) for name in ("video_1", "video_2", "video_3")
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"videos": {"video_2": 2, "video_1": 1}},
        {"video_2": 2, "video_1": 1},
        {"videos.video_2": 2, "videos.video_1": 1},
        {"videos": {"video_2": 2}, "video_1": 1},
    ],
)
def test_growing_values_come_in_order_whatever_they_were_called(values):
    assert list(growing_values("videos", values).items()) == [("video_1", 1), ("video_2", 2)]


def test_none_of_two_growing_values_of_one_name_is_dropped():
    with pytest.raises(ConsisIDError, match="Two of the videos .* Disconnect one"):
        growing_values("videos", {"videos": {"video_1": 1}, "video_1": 2})
