"""CLIPScore against transformers, on random weights."""

import itertools
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.dev.tiny import randomize
from consisid_pack.consisid_core.evaluation.nets.clip_score import ClipScorer, text_positions
from consisid_pack.consisid_core.evaluation.video import FrameBatch, VideoFile
from helpers import paper_metrics
from helpers.evaluation import refused
from helpers.videos import batch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

PROMPT = "a man talks to the camera"
LONG_PROMPT = "a man in an orange suit talks to the camera and laughs, " * 10


@pytest.mark.parametrize("count", [1, 5, 16, 17, 49, 1000])
def test_paper_frames_are_those_of_the_papers_code(count):
    assert text_positions("paper", count) == [int(i * count / 16) for i in range(16)]
    assert list(text_positions("strict", count)) == list(range(count))


@pytest.fixture(scope="module")
def full_size_clip(tmp_path_factory):
    """A folder with a CLIP ViT-B/32 of random weights and the tokenizer of ComfyUI, which is OpenAI's."""
    import comfy.sd1_clip

    folder = tmp_path_factory.mktemp("clip-vit-base-patch32")
    config = CLIPConfig()
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in CLIPModel(config).state_dict().items()}
    assert 151e6 < sum(map(math.prod, shapes.values())) < 152e6
    weights = randomize({name: torch.empty(shape) for name, shape in shapes.items()}, seed=3)
    weights["logit_scale"].fill_(math.log(100))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        source = Path(comfy.sd1_clip.__file__).with_name("sd1_tokenizer") / name
        (folder / name).write_bytes(source.read_bytes())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}')
    (folder / "preprocessor_config.json").write_text(
        json.dumps({
            "image_processor_type": "CLIPImageProcessor", "crop_size": 224, "size": 224, "resample": 3,
            "do_center_crop": True, "do_normalize": True, "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        })
    )  # fmt: skip
    return folder


@torch.no_grad()
def strict_clip_scores(video, prompt, model, processor):
    """100 x cosine of every frame in its true colours, by transformers."""
    count = paper_metrics.frame_count(video)
    pictures = [frame[:, :, ::-1].copy() for frame in paper_metrics.read_frames(video, range(count)).values()]
    output = model(**processor(text=prompt, images=pictures, return_tensors="pt", padding=True, truncation=True))
    image, text = output.image_embeds.double(), output.text_embeds.double()
    return (100 * (image @ text[0]) / (image.norm(dim=1) * text[0].norm())).numpy()


@pytest.mark.parametrize("size", ["tiny", "ViT-B/32"])
def test_clip_score_equals_transformers(request, files, cases, size):
    folder = files[2] if size == "tiny" else request.getfixturevalue("full_size_clip")
    scorer, video = ClipScorer(folder), VideoFile(cases["five frames"][0])
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    # At full size the one that is cut, which asks for more.
    for prompt in (PROMPT, LONG_PROMPT) if size == "tiny" else (LONG_PROMPT,):
        expected = strict_clip_scores(video.path, prompt, model, processor)
        actual = scorer.score(video, prompt, "strict")
        expected_paper = paper_metrics.clip_score(video.path, prompt, model, processor)
        actual_paper = scorer.score(video, prompt, "paper").score.mean
        print(size, expected, np.abs(actual.values - expected).max(), abs(actual_paper - expected_paper))
        assert actual.values.shape == (5,) and expected.std() > 0.01
        assert np.abs(actual.values - expected).max() <= 1e-4
        assert actual_paper == pytest.approx(expected_paper, rel=0, abs=1e-4)
        # Red for blue is another picture.
        assert abs(expected_paper - expected.mean()) > 0.01
        assert actual.is_prompt_cut == (prompt is LONG_PROMPT)


def test_what_clip_does_not_read_of_a_prompt_changes_nothing(models, cases, caplog):
    video = VideoFile(cases["five frames"][0])
    start = "ab" * 100
    with caplog.at_level(logging.WARNING, "consisid"):
        values = [models.clip.score(video, start + end, "strict").values for end in ("", " and much more")]
    assert np.array_equal(*values)
    assert sum("the first 77 tokens" in record.getMessage() for record in caplog.records) == 2
    assert not np.array_equal(values[0], models.clip.score(video, start[:20], "strict").values)


def test_a_frame_of_a_lower_score_lowers_clip_score(models, man, woman):
    """With random weights no direction means anything, but the score is the mean over frames, each on its own."""
    pictures = [*man[:6], *woman]
    scores = models.clip.score(FrameBatch(batch(pictures)), PROMPT, "strict").values
    order = np.argsort(scores)
    videos = [[pictures[i] for i in half] for half in (order[6:], order[:6])]
    values = scores[order[6:]], scores[order[:6]]
    means = []
    for count in range(7):
        mixed = [*videos[1][:count], *videos[0][count:]]
        scores = models.clip.score(FrameBatch(batch(mixed)), PROMPT, "strict")
        np.testing.assert_allclose(scores.values, [*values[1][:count], *values[0][count:]], rtol=0, atol=1e-4)
        means.append(scores.score.mean)
    print("CLIPScore with 0 to 6 frames exchanged:", means)
    assert all(a > b for a, b in itertools.pairwise(means))


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_refused(models, man, prompt):
    with refused("The prompt is empty"):
        models.clip.score(FrameBatch(batch(man[:1])), prompt, "strict")


@pytest.fixture
def clip_copy(files, tmp_path):
    folder = tmp_path / "my clip"
    folder.mkdir()
    for file in files[2].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def without(name):
    def change(folder):
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return change


def reshaped(folder):
    config = json.loads((folder / "config.json").read_text())
    config["projection_dim"] = 48
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda folder: (folder / "config.json").unlink(), "my clip is no folder with a config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "No CLIP can be loaded from .*my clip"),
        (lambda folder: (folder / "model.safetensors").unlink(), "No CLIP can be loaded from .*my clip"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99), "No CLIP can be loaded from .*my clip"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "No CLIP can be loaded from .*my clip"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("?"), "No CLIP can be loaded from .*my clip"),
        (without("visual_projection.weight"), "1 parameters are missing or of another shape .visual_projection.weight"),
        (
            reshaped,
            "The weights in .*my clip .*: 2 parameters .*text_projection.weight",
        ),
    ],
)
def test_a_wrong_clip_folder_is_named(clip_copy, change, message):
    change(clip_copy)
    with refused(message) as caught:
        ClipScorer(clip_copy)
    assert "huggingface.co/openai/clip-vit-base-patch32" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_clip_folder_is_named(tmp_path):
    with refused("gone is no folder with a config.json"):
        ClipScorer(tmp_path / "gone")
