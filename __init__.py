"""ConsisID for ComfyUI: one photo of a person and a prompt become a video of that person."""

from comfy_api.latest import ComfyExtension

from .consisid_core.comfyui import notices
from .nodes import evaluation, face, identity, identity_store, loaders, lora, sampler, sockets

WEB_DIRECTORY = "./nodes/web"


class ConsisIDExtension(ComfyExtension):
    async def get_node_list(self):
        files = (loaders, lora, face, identity, identity_store, sampler, evaluation)
        return [node for file in files for node in file.NODES]


async def comfy_entrypoint():
    sockets.register_model_folders()
    notices.install()
    return ConsisIDExtension()
