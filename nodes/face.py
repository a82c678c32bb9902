"""From a photo to a FACE."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..consisid_core.comfyui.compat import schema
from ..consisid_core.comfyui.face_models import FaceModels, analyze_faces
from ..consisid_core.comfyui.notices import clears_notices
from ..consisid_core.face.selection import SELECTIONS
from .sockets import ConsisIDFace, ConsisIDFaceModels

CATEGORY = "ConsisID/face"


class ConsisIDFaceAnalyzer(io.ComfyNode):
    """Photos -> FACE, the crop, and a picture of what was found."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDFaceAnalyzer",
            display_name="ConsisID Face Analyzer",
            search_aliases=["face detection", "face recognition", "face ID", "face crop", "align face"],
            category=CATEGORY,
            description="Finds the face in a photo, aligns it and removes the background. One detection gives both the "
            "recogniser's embedding and the crop, so they are always of the same person.",
            # So that the preview comes again from the cache, and a photo can be tried without the rest of the graph.
            is_output_node=True,
            inputs=[
                ConsisIDFaceModels.Input("face_models"),
                io.Image.Input(
                    "image",
                    tooltip="The photo. A batch is taken as several photos of one person. Best: one face, frontal, "
                    "sharp, evenly lit, at least 100 pixels wide.",
                ),
                io.Combo.Input(
                    "selection",
                    options=list(SELECTIONS),
                    default="largest",
                    tooltip="Which face to take if there are several: faces are put into this order and face_index "
                    "counts along it.",
                ),
                io.Int.Input(
                    "face_index",
                    default=0,
                    min=0,
                    max=99,
                    tooltip="0 is the first face in the order of selection, 1 the second: the number that the "
                    "detections picture gives each face.",
                ),
                io.Combo.Input(
                    "background",
                    options=["remove", "keep"],
                    default="remove",
                    tooltip="remove: white everywhere but on skin, hair and face, as ConsisID was trained. keep: the "
                    "crop as it is, if parsing cuts away something that belongs to the person.",
                ),
            ],
            outputs=[
                ConsisIDFace.Output(display_name="face"),
                io.Image.Output(display_name="face_image", tooltip="The aligned crop as the VAE will see it."),
                io.Image.Output(display_name="detections", tooltip="Every face found, the chosen one marked."),
            ],
        )

    @classmethod
    @clears_notices
    def execute(
        cls, face_models: FaceModels, image: io.Image.Type, selection: str, face_index: int, background: str
    ) -> io.NodeOutput:
        face, detections = analyze_faces(face_models, image, selection, face_index, background)
        return io.NodeOutput(face, face.image, detections, ui=ui.PreviewImage(detections, cls=cls))


NODES = [ConsisIDFaceAnalyzer]
