"""Weight files to MODEL, VAE, CLIP and face models, and LoRAs on the MODEL."""

from __future__ import annotations

from comfy_api.latest import io

from ..consisid_core.comfyui.compat import schema
from ..consisid_core.comfyui.face_models import load_face_models
from ..consisid_core.comfyui.lora import apply_lora
from ..consisid_core.comfyui.model_folders import (
    checkpoint_names,
    checkpoint_path,
    face_net_names,
    face_pack_names,
    face_pack_path,
    transformer_names,
)
from ..consisid_core.comfyui.notices import clears_notices
from ..consisid_core.comfyui.text_encoder import load_text_encoder
from ..consisid_core.comfyui.transformer import WEIGHT_DTYPES, load_transformer
from ..consisid_core.comfyui.vae import load_vae
from ..consisid_core.face.providers import PROVIDER_CHOICES
from .sockets import ConsisIDFaceModels

CATEGORY = "ConsisID/loaders"


class ConsisIDModelLoader(io.ComfyNode):
    """Weight file or folder of shards -> MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDModelLoader",
            display_name="Load ConsisID DiT",
            search_aliases=["ConsisID model", "ConsisID transformer", "ConsisID checkpoint", "CogVideoX"],
            category=CATEGORY,
            description="Loads the ConsisID transformer, from one file or from the released folder of shards.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=transformer_names(),
                    tooltip="Weight file (.safetensors, .gguf, .bin, .pth) or folder of shards (with its .index.json "
                    "and config.json) in models/diffusion_models, or below transformer in models/consisid. Plain "
                    "CogVideoX weights are refused: they have no face modules.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="How weights are kept in memory. default: as the device likes best (bf16 on recent GPUs, "
                    "12.4 GB). The fp8 types take half of that at a small loss; _fast also multiplies in fp8, which "
                    "needs an RTX 40 series card or newer. Files that are quantised already keep their own "
                    "types.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    @clears_notices
    def execute(cls, model_name: str, weight_dtype: str) -> io.NodeOutput:
        return io.NodeOutput(load_transformer(checkpoint_path("diffusion_models", model_name), weight_dtype))


class ConsisIDVAELoader(io.ComfyNode):
    """Weight file -> VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDVAELoader",
            display_name="Load ConsisID VAE",
            search_aliases=["CogVideoX VAE"],
            category=CATEGORY,
            description="Loads the CogVideoX VAE, which turns the face into latents and latents into video.",
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=checkpoint_names("vae", "vae"),
                    tooltip="VAE file in models/vae. Any CogVideoX 1.0 VAE in diffusers' format will do.",
                ),
            ],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    @clears_notices
    def execute(cls, vae_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_vae(checkpoint_path("vae", vae_name)))


class ConsisIDTextEncoderLoader(io.ComfyNode):
    """Weight file or folder of shards -> CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDTextEncoderLoader",
            display_name="Load ConsisID Text Encoder",
            search_aliases=["T5 XXL", "CogVideoX text encoder", "prompt encoder"],
            category=CATEGORY,
            description="Loads T5 v1.1 XXL for prompts of exactly 226 tokens: shorter ones are padded, longer ones are "
            "cut and the log says what was lost.",
            inputs=[
                io.Combo.Input(
                    "text_encoder_name",
                    options=checkpoint_names("text_encoders", "text_encoder"),
                    tooltip="T5 v1.1 XXL file or folder of shards in models/text_encoders. The t5xxl_fp16.safetensors "
                    "of SD3 and Flux is the same encoder.",
                ),
            ],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    @clears_notices
    def execute(cls, text_encoder_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_text_encoder(checkpoint_path("text_encoders", text_encoder_name)))


class ConsisIDFaceModelsLoader(io.ComfyNode):
    """Face pack and two weight files -> what the Face Analyzer looks with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDFaceModelsLoader",
            display_name="Load ConsisID Face Models",
            search_aliases=["InsightFace", "antelopev2", "EVA-CLIP", "BiSeNet face parsing"],
            category=CATEGORY,
            description="Loads what looks at the photo: face detection and recognition, face parsing, the EVA tower.",
            inputs=[
                io.Combo.Input(
                    "insightface_pack",
                    options=face_pack_names(),
                    tooltip="Folder in models/insightface/models. ConsisID was trained with antelopev2; other "
                    "recognisers give another likeness.",
                ),
                io.Combo.Input(
                    "face_parsing",
                    options=face_net_names("parsing"),
                    tooltip="parsing_bisenet.pth in models/consisid: tells the face from the background.",
                ),
                io.Combo.Input(
                    "eva_clip",
                    options=face_net_names("eva"),
                    tooltip="EVA02_CLIP_L_336_psz14_s6B.pt in models/consisid: sees fine detail of the face.",
                ),
                io.Combo.Input(
                    "provider",
                    options=list(PROVIDER_CHOICES),
                    default="auto",
                    tooltip="Where detection and recognition run. auto takes the best that the installed onnxruntime "
                    "offers. CPU always works and takes about a second a photo.",
                ),
            ],
            outputs=[ConsisIDFaceModels.Output(display_name="face_models")],
        )

    @classmethod
    @clears_notices
    def execute(
        cls,
        insightface_pack: str,
        face_parsing: str,
        eva_clip: str,
        provider: str,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            load_face_models(
                face_pack_path(insightface_pack),
                checkpoint_path("consisid", face_parsing),
                checkpoint_path("consisid", eva_clip),
                provider,
            )
        )


class ConsisIDLoraLoader(io.ComfyNode):
    """MODEL -> a clone with a LoRA on it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ConsisIDLoraLoader",
            display_name="Load ConsisID LoRA",
            search_aliases=["CogVideoX LoRA", "video LoRA"],
            category=CATEGORY,
            description="Puts a LoRA for ConsisID or CogVideoX-5B on the model, in whatever format its trainer wrote. "
            "Several can be chained.",
            inputs=[
                io.Model.Input("model", tooltip="The ConsisID MODEL. It stays as it is; the output carries the LoRA."),
                io.Combo.Input(
                    "lora_name",
                    options=checkpoint_names("loras", "lora"),
                    tooltip="File in models/loras in diffusers', PEFT's, kohya's or ComfyUI's format. For a LoRA of "
                    "another model the error says what the file looks like.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    round=0.0001,
                    tooltip="1 is the LoRA as trained, 0 the model without it, below 0 the opposite. Lower it when the "
                    "face or the motion suffers.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    @clears_notices
    def execute(cls, model: io.Model.Type, lora_name: str, strength: float) -> io.NodeOutput:
        return io.NodeOutput(apply_lora(model, checkpoint_path("loras", lora_name), strength))


NODES = [
    ConsisIDModelLoader,
    ConsisIDVAELoader,
    ConsisIDTextEncoderLoader,
    ConsisIDFaceModelsLoader,
    ConsisIDLoraLoader,
]
