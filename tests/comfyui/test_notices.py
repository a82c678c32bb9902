"""What a node shows while it runs and after: previews of the latent, notices, the time left."""

import asyncio
import io as bytes_io
import json
import logging
import re
import struct
import uuid

import aiohttp
import comfy.samplers
import comfy.utils
import numpy as np
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from comfy_execution.utils import CurrentNodeContext
from comfy_extras import nodes_custom_sampler
from consisid_pack.consisid_core.comfyui.notices import count_steps, notices
from consisid_pack.consisid_core.comfyui.transformer import ConsisIDLatentFormat
from helpers import ROOT
from helpers.processes import SECONDS
from helpers.served import Run, decode_one_frame, demo
from PIL import Image
from skimage import data

import nodes as comfyui_nodes

STEPS = 3

# Previews of the latent


@pytest.fixture(scope="module")
def inputs(run_node):
    """Model, conditioning and latent of a 5-frame video, without identity."""
    (model,) = run_node("ConsisIDModelLoader", model_name="consisid_demo/transformer")
    text = torch.randn(1, 226, model.model.config.text_embed_dim, generator=torch.manual_seed(0))
    return model, [[text, {}]], [[text * 0, {}]], {"samples": torch.zeros(1, 16, 2, 20, 30)}


def run_consisid_sampler(run_node, model, positive, negative, latent):
    (out,) = run_node(
        "ConsisIDSampler", model=model, positive=positive, negative=negative, latent_image=latent, steps=STEPS,
        sampler="ddim",
    )  # fmt: skip
    return out


def run_ksampler(run_node, model, positive, negative, latent):
    with torch.inference_mode():
        return comfyui_nodes.KSampler().sample(model, 0, STEPS, 6.0, "euler", "simple", positive, negative, latent)[0]


def run_sampler_custom_advanced(run_node, model, positive, negative, latent):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    with torch.inference_mode():
        return nodes_custom_sampler.SamplerCustomAdvanced.execute(
            nodes_custom_sampler.Noise_RandomNoise(0), guider, comfy.samplers.sampler_object("euler"), sigmas, latent
        ).args[0]


@pytest.mark.parametrize("sampler", [run_consisid_sampler, run_ksampler, run_sampler_custom_advanced])
def test_samplers_preview_the_latent_at_each_step(sampler, inputs, run_node, monkeypatch):
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Auto)
    seen = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, **_: seen.append((value, total, preview)))
    try:
        out = sampler(run_node, *inputs)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert [step[:2] for step in seen] == [(i, STEPS) for i in range(1, STEPS + 1)]
    pictures = [np.array(preview[1]).astype(float) for _, _, preview in seen]
    assert all(picture.shape == (20, 30, 3) for picture in pictures)
    assert all(np.abs(a - b).max() > 2 for a, b in zip(pictures[:-1], pictures[1:], strict=True))
    # The last step lands on its own prediction, so the last preview is that of the latent that comes out: of its first
    # frame, in the scale that the model samples.
    first_frame = 0.7 * out["samples"][0, :, 0].double().permute(1, 2, 0).numpy()
    colours = first_frame @ np.array(ConsisIDLatentFormat.latent_rgb_factors)
    expected = ((colours + 1) / 2).clip(0, 1) * 255
    assert expected.std() > 5
    assert np.abs(pictures[-1] - expected).max() <= 1.01  # Cut to whole numbers.


# Notices on nodes


def test_notices_are_for_servers_only(caplog, node_classes):
    """Without a prompt, and in a prompt without a server, everything is logged and nothing breaks."""
    log = logging.getLogger("consisid")
    with caplog.at_level(logging.INFO, "consisid"):
        for _ in range(2):
            log.warning("outside")
        with CurrentNodeContext("prompt", "5"):
            notices.begin()
            for _ in range(2):
                log.warning("inside")
            with count_steps(2) as count:
                count(1)
        with CurrentNodeContext("prompt", "6"):
            log.warning("inside")
        with CurrentNodeContext("next prompt", "5"):
            log.warning("inside")
    assert caplog.messages == ["outside", "outside", "inside", "inside", "inside"]


class Client(Run):
    """Keeps the texts that the server sends to each node."""

    def run(self, graph, interrupt_at=None, flags={"supports_preview_metadata": True}):
        """Node id -> its texts in order.

        interrupt_at: a text at which to interrupt. flags: declared to the server first, as the frontend does.
        """
        return asyncio.run(self._run(graph, interrupt_at, flags))

    async def _run(self, graph, interrupt_at, flags):
        async with aiohttp.ClientSession(self.server.url, timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
            await demo.wait_until_ready(self.server, session)
            buffer = bytes_io.BytesIO()
            Image.fromarray(data.astronaut()).save(buffer, "PNG")
            photo = await demo.upload(session, "astronaut.png", buffer.getvalue())
            demo.find_node(graph, "LoadImage")["inputs"]["image"] = photo
            client, texts, end = uuid.uuid4().hex, {}, "execution_interrupted" if interrupt_at else "execution_success"
            async with session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket:
                if flags is not None:
                    await socket.send_json({"type": "feature_flags", "data": flags})
                async with session.post("/prompt", json={"prompt": graph, "client_id": client}) as response:
                    assert response.ok, await response.text()
                async for message in socket:
                    if message.type == aiohttp.WSMsgType.BINARY:
                        kind, length = struct.unpack(">II", message.data[:8])
                        if kind != 3:
                            continue
                        text = message.data[8 + length :].decode()
                        texts.setdefault(message.data[8 : 8 + length].decode(), []).append(text)
                        if interrupt_at and text.startswith(interrupt_at):
                            await session.post("/interrupt")
                        continue
                    event = json.loads(message.data)["type"]
                    assert event not in {"execution_error", "execution_interrupted"} - {end}, message.data
                    if event == end:
                        return texts


@pytest.fixture(scope="module")
def client(tmp_path_factory, models_dir):
    with Client(tmp_path_factory.mktemp("server"), models_dir) as client:
        yield client


def test_notices_appear_on_the_node_that_gives_them_and_go_with_their_cause(client):
    graph = json.loads((ROOT / "tests" / "workflows" / "consisid_demo.json").read_text())
    ids = {node["_meta"]["title"]: node_id for node_id, node in graph.items()}
    size, prompt, sampler = ids["ConsisIDGlobalIDExtractor"], ids["Prompt"], ids["ConsisIDSampler"]
    graph[sampler]["inputs"]["steps"] = STEPS
    decode_one_frame(graph)
    sound = json.loads(json.dumps(graph))
    graph[size]["inputs"].update(keypoints=True, length=13)
    graph[prompt]["inputs"]["text"] = "a smile, " * 100 + "<img src=x onerror=alert(1)>"

    texts = client.run(graph)
    for loader in ("ConsisIDModelLoader", "ConsisIDVAELoader", "ConsisIDTextEncoderLoader", "ConsisIDFaceModelsLoader"):
        assert "random demo weights" in texts[ids[loader]][-1]
    (text,) = texts[size]
    assert text.startswith("The released ConsisID weights were not trained with key points")
    (text,) = texts[prompt]
    assert text.startswith("Prompt cut from ") and "&lt;unk&gt;img" in text and "<" not in text
    untrained = "Sampling 240x160, 13 frames; the model was trained at 240x160, 17 frames only"
    assert all(text.split("\n")[-1].startswith(untrained) for text in texts[sampler])
    lines = [text.split("\n")[0] for text in texts[sampler]]
    assert lines[1:2] == [f"Step 1 of {STEPS}"] and len(lines) == STEPS + 2
    for i, line in enumerate(lines[2:-1], start=2):
        assert re.fullmatch(rf"Step {i} of {STEPS}, \d:\d\d:\d\d left", line)
    assert re.fullmatch(rf"{STEPS} steps in \d:\d\d:\d\d", lines[-1])
    assert set(texts) <= {*(ids[name] for name in ids if name.startswith("ConsisID")), prompt}
    log = client.server.log.read_text()
    for notice in ("not trained with key points", "Prompt cut from", untrained):
        assert log.count(notice) == 1

    # The loaders come from the cache: what they showed still holds, and the frontend keeps it.
    texts = client.run(sound)
    assert texts[size] == texts[prompt] == [" "]
    assert texts[sampler][0] == " " and texts[sampler][1] == f"Step 1 of {STEPS}"
    assert set(texts) == {size, prompt, sampler}

    assert client.run(sound) == {}


def demo_graph(**sampler):
    graph = json.loads((ROOT / "tests" / "workflows" / "consisid_demo.json").read_text())
    demo.find_node(graph, "ConsisIDSampler")["inputs"].update(steps=2, **sampler)
    return decode_one_frame(graph)


@pytest.mark.parametrize("flags", [None, {}])
def test_clients_that_declare_no_feature_flags_get_no_texts(client, flags):
    assert client.run(demo_graph(seed=21 if flags is None else 22), flags=flags) == {}


def test_a_client_that_takes_binary_messages_for_pictures_gets_the_video(client, tmp_path):
    """comfy_api_simplified: its `queue_and_wait_images` returns whatever binary messages came, if any did."""
    client.object_info()  # Waits until the server is ready.
    Image.fromarray(data.astronaut()).save(tmp_path / "astronaut.png")
    api = ComfyApiWrapper(client.server.url)
    photo = api.upload_image(tmp_path / "astronaut.png")
    workflow = ComfyWorkflowWrapper(demo_graph(seed=23))
    workflow.set_node_param("Photo of the person", "image", f"{photo['subfolder']}/{photo['name']}")
    files = api.queue_and_wait_images(workflow, "SaveVideo")
    ((name, content),) = files.items()
    assert name.endswith(".mp4") and content[4:8] == b"ftyp"


def test_the_step_that_an_interrupted_run_came_to_is_shown(client):
    graph = json.loads((ROOT / "tests" / "workflows" / "consisid_demo.json").read_text())
    sampler = next(node_id for node_id, node in graph.items() if node["class_type"] == "ConsisIDSampler")
    graph[sampler]["inputs"]["steps"] = 200
    texts = client.run(graph, interrupt_at="Step 2 ")[sampler]
    done = len([text for text in texts if text.startswith("Step ")])
    assert 2 <= done < 200 and texts[-1] == f"Stopped after step {done} of 200"
