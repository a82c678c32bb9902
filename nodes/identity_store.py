"""Identities that outlive a session."""

from __future__ import annotations

import os

from comfy_api.latest import io, ui

from ..consisid_core.comfyui.compat import schema
from ..consisid_core.comfyui.model_folders import identity_folders, identity_names
from ..consisid_core.comfyui.notices import clears_notices
from ..consisid_core.face.identity_file import find_identity, identity_name, read_identity, write_identity
from ..consisid_core.types import Face
from .sockets import ConsisIDFace

CATEGORY = "ConsisID/identity"


class ConsisIDSaveIdentity(io.ComfyNode):
    """FACE -> a file in models/consisid/identities."""

    @classmethod
    def define_schema(cls) -> io.Schema:
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
    @clears_notices
    def execute(cls, face: Face, name: str) -> io.NodeOutput:
        folder = identity_folders()[0]
        path = write_identity(face, folder, name)
        return io.NodeOutput(identity_name(path, folder), ui=ui.PreviewImage(face.image, cls=cls))


class ConsisIDLoadIdentity(io.ComfyNode):
    """A file in models/consisid/identities -> FACE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDLoadIdentity",
            display_name="Load ConsisID Identity",
            search_aliases=["load face", "load character", "consistent character"],
            category=CATEGORY,
            description="Reads a face that Save ConsisID Identity kept, in place of photo and ConsisID Face Analyzer.",
            inputs=[
                io.Combo.Input(
                    "identity",
                    options=identity_names(),
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
    def fingerprint_inputs(cls, identity: str) -> str:
        status = os.stat(find_identity(identity_folders(), identity))
        return f"{status.st_mtime_ns}-{status.st_size}"

    @classmethod
    @clears_notices
    def execute(cls, identity: str) -> io.NodeOutput:
        face = read_identity(find_identity(identity_folders(), identity))
        return io.NodeOutput(face, face.image)


NODES = [ConsisIDSaveIdentity, ConsisIDLoadIdentity]
