"""Identities that outlive a session, and mixtures of two."""

import os

import folder_paths
from comfy_api.latest import io, ui

from ..consisid_core.comfyui.conditioning import blend_local_ids
from ..consisid_core.face.identity_file import (
    find_identity,
    identity_name,
    list_identities,
    read_identity,
    write_identity,
)
from .node import ConsisIDNode, schema
from .sockets import ConsisIDFace, ConsisIDLocalID

CATEGORY = "ConsisID/identity"


def _folders():
    return [os.path.join(root, "identities") for root in folder_paths.get_folder_paths("consisid")]


class ConsisIDSaveIdentity(ConsisIDNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="ConsisIDSaveIdentity",
            display_name="Save ConsisID Identity",
            search_aliases=["save face", "save character", "consistent character"],
            category=CATEGORY,
            description="Keeps an analysed face as a file in models/consisid/identities, so that later videos of this "
            "person need neither photo nor face detection.",
            is_output_node=True,
            inputs=[
                ConsisIDFace.Input("face"),
                io.String.Input(
                    "name",
                    default="identity",
                    tooltip="Name of the file, 1 to 100 characters, with sub-folders if you like: family/anna. A taken "
                    "name gets a number (anna_2); nothing is overwritten. Change it for every person.",
                ),
            ],
            outputs=[io.String.Output(display_name="name", tooltip="The name that the file got in the end.")],
        )

    @classmethod
    def execute(cls, face, name) -> io.NodeOutput:
        folder = _folders()[0]
        path = write_identity(face, folder, name)
        return io.NodeOutput(identity_name(path, folder), ui=ui.PreviewImage(face.image, cls=cls))


class ConsisIDLoadIdentity(ConsisIDNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="ConsisIDLoadIdentity",
            display_name="Load ConsisID Identity",
            search_aliases=["load face", "load character", "consistent character"],
            category=CATEGORY,
            description="Reads a face that Save ConsisID Identity kept, in place of photo and ConsisID Face Analyzer.",
            inputs=[
                io.Combo.Input(
                    "identity",
                    options=list(list_identities(_folders())),
                    tooltip="Which person: a file in models/consisid/identities, sub-folders included. Press R after "
                    "saving a new one. It is read again whenever the file changes.",
                ),
            ],
            outputs=[
                ConsisIDFace.Output(display_name="face"),
                io.Image.Output(display_name="face_image", tooltip="The aligned crop as the VAE will see it."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, identity):
        status = os.stat(find_identity(_folders(), identity))
        return f"{status.st_mtime_ns}-{status.st_size}"

    @classmethod
    def execute(cls, identity) -> io.NodeOutput:
        face = read_identity(find_identity(_folders(), identity))
        return io.NodeOutput(face, face.image)


class ConsisIDBlendLocalID(ConsisIDNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="ConsisIDBlendLocalID",
            display_name="Blend ConsisID Local IDs",
            search_aliases=["mix faces", "merge identities", "interpolate faces"],
            category=CATEGORY,
            description="Mixes the high-frequency halves of two identities into one, token by token.",
            inputs=[
                ConsisIDLocalID.Input("local_id_1"),
                ConsisIDLocalID.Input("local_id_2", tooltip="Made with the same MODEL as local_id_1."),
                io.Float.Input(
                    "ratio",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="0 is local_id_1 alone, 1 is local_id_2 alone, between them a linear mixture. Move it when "
                    "one of the two dominates.",
                ),
            ],
            outputs=[ConsisIDLocalID.Output(display_name="local_id")],
        )

    @classmethod
    def execute(cls, local_id_1, local_id_2, ratio) -> io.NodeOutput:
        return io.NodeOutput(blend_local_ids(local_id_1, local_id_2, ratio))


NODES = [ConsisIDSaveIdentity, ConsisIDLoadIdentity, ConsisIDBlendLocalID]
