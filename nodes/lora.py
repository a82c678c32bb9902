"""LoRA files on the ConsisID transformer."""

from comfy_api.latest import io

from ..consisid_core.comfyui.lora import apply_lora
from .node import ConsisIDNode, schema
from .sockets import checkpoint_names, checkpoint_path

CATEGORY = "ConsisID/loaders"


class ConsisIDLoraLoader(ConsisIDNode):
    @classmethod
    def define_schema(cls):
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
    def execute(cls, model, lora_name, strength) -> io.NodeOutput:
        return io.NodeOutput(apply_lora(model, checkpoint_path("loras", lora_name), strength))


NODES = [ConsisIDLoraLoader]
