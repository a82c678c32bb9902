"""The templates in workflows/: what they need of ComfyUI, and the files that their loaders ask for."""

import io
import json
from functools import cache

import av
import numpy as np
import torch
from comfyui_version import __version__
from safetensors.torch import save_file
from skimage import data
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

from helpers import ROOT
from helpers.served import png

TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
NEWER_NODES = {
    "ContextWindowsManual": "0.33.0",
    "MultiGPU_WorkUnits": "0.33.0",
    "FrameInterpolationModelLoader": "0.19.3",
    "FrameInterpolate": "0.19.3",
}
"""Nodes of ComfyUI that the oldest supported version lacks, or has in a form that does not do for our model."""


def drawn(name):
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def _numbers(version):
    return [int(part) for part in version.split(".")]


# Decoding takes most of a run, so that videos are small, and those that show nothing more in 17 frames have few.
WIDTH, HEIGHT = 96, 64
_SHORT = (
    "identity_report", "identity_to_video", "ksampler", "low_memory", "several_photos", "text_to_video", "two_gpus"
)  # fmt: skip


def frame_count(name):
    """Frames of a template in test size."""
    return 5 if name.removeprefix("consisid_") in _SHORT else 17


def needs_newer(name):
    """Whether this template has a node for which the ComfyUI under test is too old."""
    versions = [NEWER_NODES.get(node["type"], "0") for node in drawn(name)["nodes"]]
    return max(map(_numbers, versions)) > _numbers(__version__)


def photos():
    """PNG files of three photos of one person: the astronaut, cropped, and mirrored and darker."""
    astronaut = data.astronaut()
    pictures = {
        "portrait.png": astronaut,
        "portrait_2.png": astronaut[:384, 40:424],
        "portrait_3.png": (astronaut[:, ::-1] * 0.8).astype(np.uint8),
    }
    return {name: png(picture) for name, picture in pictures.items()}


def clip(pictures):
    """MP4 of the pictures, uint8 [H, W, 3] each, at 8 frames a second."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", 8, options={"crf": "12", "preset": "veryfast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


def camera_pan():
    """20 pictures of 300x200, a camera that moves over the astronaut."""
    astronaut = data.astronaut()
    return [np.ascontiguousarray(astronaut[:200, 4 * i : 4 * i + 300]) for i in range(20)]


@cache
def input_files():
    """{file name: its bytes} of what the templates load."""
    return {**photos(), "clip.mp4": clip(camera_pan())}


def write_enlarging_models(models):
    """Tiny random nets of the upscaler's and the interpolator's architecture, under the names that a template has."""
    torch.manual_seed(0)
    upscaler = RRDBNet(num_filters=8, num_blocks=1, scale=4)
    with torch.no_grad():
        upscaler.model[-1].weight.mul_(20)
        upscaler.model[-1].bias.fill_(0.5)  # Grey in the middle, not black.
    _write(models / "upscale_models" / "RealESRGAN_x4plus.safetensors", upscaler.state_dict())
    try:
        from comfy_extras.frame_interpolation_models.ifnet import IFNet
    except ImportError:  # A ComfyUI without the node has no use for the file.
        return
    net = IFNet(head_ch=4, channels=(8, 8, 8, 8, 8))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    _write(models / "frame_interpolation" / "rife_v4.26.safetensors", net.state_dict())


def _write(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
