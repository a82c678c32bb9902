"""Where the tiny nets lie that prepare clips."""

import os
from pathlib import Path


def tiny_paths(models_dir):
    """Field of EncoderPaths -> path."""
    name = "consisid_demo"
    return {
        "vae": models_dir / f"vae/{name}/diffusion_pytorch_model.safetensors",
        "text_encoder": models_dir / f"text_encoders/{name}/text_encoder",
        "tokenizer": Path(os.environ["COMFYUI_PATH"]) / "comfy/text_encoders/t5_tokenizer",
        "eva": models_dir / f"consisid/{name}/EVA02_CLIP_L_336_psz14_s6B.pt",
        "parser": models_dir / f"consisid/{name}/parsing_bisenet.pth",
        "pack": models_dir / f"insightface/models/{name}",
    }


def options(paths):
    """The same as options of the command."""
    return [text for name, path in paths.items() for text in (f"--{name.replace('_', '-')}", str(path))]
