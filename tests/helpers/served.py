"""A real ComfyUI server in its own process, for tests that send graphs to it."""

import asyncio
import io
import os
import sys
from pathlib import Path

import aiohttp
import numpy as np
from PIL import Image
from skimage import data

from helpers import ROOT
from helpers.processes import SECONDS

QUICKER = "--disable-api-nodes"
"""Of ComfyUI's options: a quarter of its start are nodes of paid services."""
OPTIONS = (
    QUICKER,
    "--cache-classic",  # What was made stays, however little memory the machine has left.
)

sys.path.append(str(ROOT / "scripts"))
import demo  # noqa: E402


def link_released_names(models_dir, folder):
    """Links the tiny files into folder twice: as they are, and under the released files' names."""
    for kind, released, tiny in (
        ("diffusion_models", "ConsisID-preview/transformer", "transformer"),
        ("text_encoders", "ConsisID-preview/text_encoder", "text_encoder"),
        ("vae", "ConsisID-preview/vae/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        ("consisid", "ConsisID-preview/face_encoder", ""),
        ("consisid", "clip-vit-base-patch32", "clip-vit-base-patch32"),
        ("insightface/models", "antelopev2", ""),
        ("insightface/models", "buffalo_l", ""),
    ):
        tiny_set = models_dir / kind / "consisid_demo"
        for link, target in ((released, tiny_set / tiny), ("consisid_demo", tiny_set)):
            path = folder / kind / link
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_symlink():
                path.symlink_to(target, target_is_directory=target.is_dir())


def decode_one_frame(graph):
    """Cuts off all but the first latent frame before the VAE, where the video is not looked at: decoding takes longest.

    Returns the graph.
    """
    decode = demo.find_node(graph, "VAEDecode")["inputs"]
    graph["cut"] = {
        "class_type": "LatentCut",
        "inputs": {"samples": decode["samples"], "dim": "t", "index": 0, "amount": 1},
        "_meta": {"title": "Cut"},
    }
    decode["samples"] = ["cut", 0]
    return graph


class Run:
    """The server, with base as its base directory and models_dir as its models folder."""

    def __init__(self, base, models_dir):
        self.base = base
        demo.BASE = base
        demo.START_SECONDS = SECONDS
        demo.make_base_directory()
        (base / "models").rmdir()
        (base / "models").symlink_to(models_dir)

    def __enter__(self):
        self.server = demo.Server(Path(os.environ["COMFYUI_PATH"]), keep=False, arguments=OPTIONS).__enter__()
        return self

    def __exit__(self, *error):
        self.server.__exit__(*error)

    def object_info(self):
        """What the server says of every node."""

        async def get():
            async with self._session() as session:
                await demo.wait_until_ready(self.server, session)
                async with session.get("/object_info") as response:
                    return await response.json()

        return asyncio.run(get())

    def outputs(self, graph, photos=None):
        """Run the graph; returns {node id: what it shows or saves}, and the video's bytes or None.

        photos: {file name in a Load node: uint8 [H, W, 3], or the file's bytes}; the astronaut as portrait.png if not
            given.
        """
        return asyncio.run(self._run(graph, photos or {"portrait.png": data.astronaut()}))

    def frames(self, graph, photos=None):
        """Run the graph with its frames saved as PNG too; returns uint8 [T, H, W, 3] and the video's bytes."""
        save = {"class_type": "SaveImage", "inputs": {"images": ["15", 0], "filename_prefix": "frame"}}
        outputs, video = self.outputs({**graph, "frames": save}, photos)
        return self.pictures(outputs["frames"]), video

    def pictures(self, output):
        """uint8 [T, H, W, 3] of the pictures that a node saved or previewed."""
        files = [self.base / entry["type"] / entry["subfolder"] / entry["filename"] for entry in output["images"]]
        return np.stack([np.array(Image.open(file)) for file in files])

    def _session(self):
        return aiohttp.ClientSession(self.server.url, timeout=aiohttp.ClientTimeout(total=SECONDS))

    async def _run(self, graph, photos):
        async with self._session() as session:
            await demo.wait_until_ready(self.server, session)
            for name, pixels in photos.items():
                content = pixels if isinstance(pixels, bytes) else png(pixels)
                assert await demo.upload(session, name, content) == name
            prompt_id = await demo.execute(self.server, session, graph)
            has_video = any(node["class_type"] == "SaveVideo" for node in graph.values())
            video = await demo.fetch_video(session, prompt_id) if has_video else None
            async with session.get(f"/history/{prompt_id}") as response:
                return (await response.json())[prompt_id]["outputs"], video


def png(pixels):
    """The bytes of a PNG file of uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
