"""ConsisID for ComfyUI: one photo of a person and a prompt become a video of that person."""

from comfy_api.latest import ComfyExtension, io

from .consisid_core.comfyui import model_folders, notices
from .nodes import evaluation, face, identity, identity_store, loaders, sampler

WEB_DIRECTORY = "./nodes/web"


class ConsisIDExtension(ComfyExtension):
    """The nodes of this pack, as ComfyUI asks for them."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        files = (loaders, face, identity, identity_store, sampler, evaluation)
        return [node for file in files for node in file.NODES]


async def comfy_entrypoint() -> ComfyExtension:
    """Make the pack ready: its model folders and its log on nodes."""
    model_folders.register()
    notices.install()
    return ConsisIDExtension()
