"""The two halves of an identity, and how they meet the prompt."""

from __future__ import annotations

from comfy_api.latest import io

from ..consisid_core.comfyui.compat import schema
from ..consisid_core.comfyui.conditioning import ALL_BLOCKS, blend_local_ids, condition
from ..consisid_core.comfyui.extractors import FITS, extract_global_id, extract_local_id
from ..consisid_core.comfyui.face_models import FaceModels
from ..consisid_core.comfyui.notices import clears_notices
from ..consisid_core.types import Face, GlobalID, LocalID
from .sockets import ConsisIDFace, ConsisIDFaceModels, ConsisIDGlobalID, ConsisIDLocalID

CATEGORY = "ConsisID/identity"


class ConsisIDGlobalIDExtractor(io.ComfyNode):
    """FACE -> the low-frequency half of the identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDGlobalIDExtractor",
            display_name="ConsisID Global ID Extractor",
            search_aliases=["identity", "face latents", "reference face", "video size"],
            category=CATEGORY,
            description="Low-frequency half of the identity: face shape and proportions, as VAE latents that stand "
            "beside the noise. Also sets the size of the video.",
            inputs=[
                ConsisIDFace.Input("face"),
                io.Vae.Input("vae"),
                io.Int.Input(
                    "width",
                    default=720,
                    min=16,
                    max=4096,
                    step=16,
                    tooltip="Video width in pixels, a multiple of 16. The model was trained at 720x480 only.",
                ),
                io.Int.Input(
                    "height",
                    default=480,
                    min=16,
                    max=4096,
                    step=16,
                    tooltip="Video height in pixels, a multiple of 16. The model was trained at 720x480 only.",
                ),
                io.Int.Input(
                    "length",
                    default=49,
                    min=1,
                    max=1021,
                    step=4,
                    tooltip="Number of frames, 4n+1. 49 is what the model was trained on (6 seconds at 8 fps); fewer "
                    "take less time, more let the face drift.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="stretch",
                    tooltip="How the square face fills the frame. stretch is what the model was trained with and "
                    "expects. letterbox keeps proportions on white; try it if faces come out too wide.",
                ),
                io.Boolean.Input(
                    "keypoints",
                    default=False,
                    tooltip="Adds a drawing of eyes, nose and mouth as second frame. Only for weights trained with key "
                    "points; the released ones were not.",
                ),
                io.Float.Input(
                    "noise_augmentation",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Noise on the face image, as deviation in -1..1. Training used about 0.05, the reference "
                    "uses 0. Raise it slightly if the video copies the photo too stiffly.",
                ),
            ],
            outputs=[ConsisIDGlobalID.Output(display_name="global_id")],
        )

    @classmethod
    @clears_notices
    def execute(
        cls,
        face: Face,
        vae: io.Vae.Type,
        width: int,
        height: int,
        length: int,
        fit: str,
        keypoints: bool,
        noise_augmentation: float,
    ) -> io.NodeOutput:
        return io.NodeOutput(extract_global_id(face, vae, width, height, length, fit, keypoints, noise_augmentation))


class ConsisIDLocalIDExtractor(io.ComfyNode):
    """FACE -> the high-frequency half of the identity."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDLocalIDExtractor",
            display_name="ConsisID Local ID Extractor",
            search_aliases=["identity", "identity tokens", "face features"],
            category=CATEGORY,
            description="High-frequency half of the identity: eyes, lips, texture, as 32 tokens that every second "
            "block attends. Runs once per face; several photos are averaged.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The ConsisID MODEL. Only its facial extractor is loaded here, with its LoRAs."
                ),
                ConsisIDFaceModels.Input("face_models"),
                ConsisIDFace.Input("face"),
            ],
            outputs=[ConsisIDLocalID.Output(display_name="local_id")],
        )

    @classmethod
    @clears_notices
    def execute(cls, model: io.Model.Type, face_models: FaceModels, face: Face) -> io.NodeOutput:
        return io.NodeOutput(extract_local_id(model, face_models, face))


class ConsisIDBlendLocalID(io.ComfyNode):
    """Two high-frequency halves -> one between them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
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
    @clears_notices
    def execute(cls, local_id_1: LocalID, local_id_2: LocalID, ratio: float) -> io.NodeOutput:
        return io.NodeOutput(blend_local_ids(local_id_1, local_id_2, ratio))


class ConsisIDConditioning(io.ComfyNode):
    """Prompts and identity -> what any sampler takes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDConditioning",
            display_name="ConsisID Conditioning",
            search_aliases=["identity", "apply ConsisID", "face ID video", "consistent character"],
            category=CATEGORY,
            description="Joins prompts and identity for any sampler. Both prompts get the identity, as the reference "
            "does.",
            inputs=[
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                ConsisIDGlobalID.Input("global_id"),
                ConsisIDLocalID.Input(
                    "local_id", optional=True, tooltip="Leave open for a video by the low-frequency half alone."
                ),
                io.Float.Input(
                    "global_strength",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="Scales the face latents. 0 ignores shape and proportions; above 1 holds the photo harder "
                    "and stiffens motion.",
                ),
                io.Float.Input(
                    "local_strength",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="Scales what the identity tokens add. 0 leaves fine detail to the prompt; above 1 keeps "
                    "the face closer, too much makes artefacts.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="From which part of sampling the identity tokens act. Later starts leave composition to "
                    "the prompt. Face latents act throughout.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Until which part of sampling the identity tokens act. Earlier ends loosen fine detail.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Videos to sample at once. Each needs memory of its own.",
                ),
                io.Int.Input(
                    "start_block",
                    default=ALL_BLOCKS[0],
                    min=ALL_BLOCKS[0],
                    max=ALL_BLOCKS[1],
                    optional=True,
                    tooltip="First block of the model in which the identity tokens act. The released weights attend "
                    "them in blocks 0, 2, 4 to 40; a later start leaves the first of these to the prompt.",
                ),
                io.Int.Input(
                    "end_block",
                    default=ALL_BLOCKS[1],
                    min=ALL_BLOCKS[0],
                    max=ALL_BLOCKS[1],
                    optional=True,
                    tooltip="Last block in which the identity tokens act. 999 is beyond the last of any model.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    @clears_notices
    def execute(
        cls,
        positive: io.Conditioning.Type,
        negative: io.Conditioning.Type,
        global_id: GlobalID,
        global_strength: float,
        local_strength: float,
        start_percent: float,
        end_percent: float,
        batch_size: int,
        local_id: LocalID | None = None,
        start_block: int = ALL_BLOCKS[0],
        end_block: int = ALL_BLOCKS[1],
    ) -> io.NodeOutput:
        return io.NodeOutput(
            *condition(
                positive,
                negative,
                global_id,
                local_id,
                global_strength,
                local_strength,
                start_percent,
                end_percent,
                batch_size,
                start_block,
                end_block,
            )
        )


NODES = [ConsisIDGlobalIDExtractor, ConsisIDLocalIDExtractor, ConsisIDBlendLocalID, ConsisIDConditioning]
