"""What all ConsisID nodes have in common."""

import dataclasses

from comfy_api.latest import io

from ..consisid_core.comfyui.notices import notices


def schema(search_aliases, **fields):
    """An `io.Schema`. search_aliases: other words under which users look for the node."""
    if any(field.name == "search_aliases" for field in dataclasses.fields(io.Schema)):  # Retired by 0.11.
        fields["search_aliases"] = search_aliases
    return io.Schema(**fields)


class ConsisIDNode(io.ComfyNode):
    @classmethod
    def check_lazy_status(cls, **inputs):
        # ComfyUI calls this right before `execute`, and not for a node that comes from its cache.
        notices.begin()
        return []
