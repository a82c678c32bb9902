"""Photos through the analyzer: one person or several, the picture on the node, many photos, the reference's path."""

import logging
from importlib.util import find_spec
from pathlib import Path

import comfy.model_management
import comfy.utils
import cv2
import folder_paths
import numpy as np
import psutil
import pytest
import torch
from consisid_eva_clip import get_model_config
from consisid_eva_clip.model import _build_vision_tower
from consisid_pack.consisid_core.face.eva_clip import preprocess
from consisid_pack.consisid_core.face.same_person import SAME_PERSON, disagreeing_photos
from diffusers.pipelines.consisid import consisid_utils as reference
from facexlib.parsing.bisenet import BiSeNet
from helpers.oracle import relative_error
from helpers.random_nets import randomise
from insightface.app import FaceAnalysis
from PIL import Image
from skimage import data

DEMO = "consisid_demo"


@pytest.fixture(scope="module")
def face_models(run_node):
    return load(run_node)


def load(run_node, parsing=f"{DEMO}/parsing_bisenet.pth"):
    (models,) = run_node(
        "ConsisIDFaceModelsLoader", insightface_pack=DEMO, face_parsing=parsing,
        eva_clip=f"{DEMO}/EVA02_CLIP_L_336_psz14_s6B.pt", provider="CPU",
    )  # fmt: skip
    return models


def to_images(*pictures):
    """uint8 [H, W, 3] each -> IMAGE."""
    return torch.from_numpy(np.stack(pictures)).float().div(255)


@pytest.fixture(scope="module")
def astronaut():
    """Her face in 256x256 px."""
    return data.astronaut()[:256, 96:352]


@pytest.fixture(scope="module")
def strangers():
    """Two other people, 256x256 px each, the face in the middle."""
    path = Path(find_spec("feat").submodule_search_locations[0]) / "tests/data/multi_face.jpg"
    picture = np.array(Image.open(path).convert("RGB"))
    return [picture[y - 128 : y + 128, x - 128 : x + 128] for x, y in ((476, 267), (740, 357))]


@pytest.fixture
def warnings_of(run_node, face_models, caplog):
    """Analyze pictures with the node; returns the warnings about who is on them."""

    def analyze(*pictures):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="consisid"):
            run_node("ConsisIDFaceAnalyzer", face_models=face_models, image=to_images(*pictures),
                     selection="most_central")  # fmt: skip
        return [text for text in caplog.messages if "same person" in text or "person of the others" in text]

    return analyze


# ---- one person or several -----------------------------------------------------------------------------------------


def people(*names, likeness=0.5, seed=0):
    """Embeddings in which photos of one name have about this cosine, others about 0, of lengths as ArcFace's."""
    generator = torch.Generator().manual_seed(seed)
    person = {name: torch.randn(512, generator=generator) for name in dict.fromkeys(names)}
    noise = torch.randn(len(names), 512, generator=generator)
    mean = torch.stack([person[name] for name in names])
    return likeness**0.5 * mean + (1 - likeness) ** 0.5 * noise


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("a", []), ("aa", []), ("aaaa", []),
        ("ab", [1, 2]), ("abc", [1, 2, 3]),
        ("aab", [3]), ("baaa", [1]), ("aabaac", [3, 6]), ("aaabb", [4, 5]),
    ],
)  # fmt: skip
def test_strangers_are_told_from_the_rest(names, expected):
    for seed in range(20):
        embedding = people(*names, seed=seed)
        found = disagreeing_photos(embedding)
        assert [number for number, _ in found] == expected
        assert all(-1 <= cosine < SAME_PERSON for _, cosine in found)
        rescaled = disagreeing_photos(embedding * torch.rand(len(names), 1).add(0.1))
        assert [number for number, _ in rescaled] == expected


def test_score_is_the_cosine_to_the_mean_of_the_others():
    embedding = people(*"aab")
    unit = embedding / embedding.norm(dim=1, keepdim=True)
    ((number, cosine),) = disagreeing_photos(embedding)
    assert number == 3
    assert cosine == pytest.approx(torch.cosine_similarity(unit[2], unit[:2].mean(0), dim=0).item(), abs=1e-6)


def test_photos_of_one_person_give_no_warning(warnings_of, astronaut):
    darker = (astronaut * 0.6).astype(np.uint8)
    assert warnings_of(astronaut) == warnings_of(astronaut, astronaut[:, ::-1], darker) == []


def test_one_warning_names_every_stranger(warnings_of, astronaut, strangers):
    (text,) = warnings_of(astronaut, strangers[0], astronaut[:, ::-1])
    assert "Of the 3 photos" in text and "photo 2 (" in text and "photo 1" not in text and "photo 3" not in text
    (text,) = warnings_of(astronaut, strangers[0], astronaut[:, ::-1], astronaut, strangers[1])
    assert "photo 2 (" in text and "photo 5 (" in text and text.count("photo ") == 2


def test_two_photos_of_different_people_differ(warnings_of, astronaut, strangers):
    (text,) = warnings_of(astronaut, strangers[0])
    assert "The 2 photos differ" in text and "photo 1 (" in text and "photo 2 (" in text


def test_what_may_spoil_the_likeness_is_logged_with_the_photo(run_node, face_models, astronaut, caplog):
    blurred = cv2.GaussianBlur(astronaut, (0, 0), 4)
    run_node("ConsisIDFaceAnalyzer", face_models=face_models, image=to_images(astronaut, blurred), background="keep")
    (text,) = [text for text in caplog.messages if "blurred" in text]
    assert text.startswith("Photo 2 of 2: ")
    assert not any(text.startswith("Photo 1 of 2") for text in caplog.messages)


def test_which_of_several_faces_is_taken_is_logged(run_node, face_models, astronaut, caplog):
    two = np.concatenate([astronaut, astronaut[:, ::-1]], axis=1)
    with caplog.at_level(logging.INFO, logger="consisid"):
        run_node(
            "ConsisIDFaceAnalyzer", face_models=face_models, image=to_images(two), selection="left_to_right",
            face_index=1,
        )  # fmt: skip
    assert "Photo 1 of 1 shows 2 faces: taking number 1 by left_to_right." in caplog.messages


# ---- the picture on the node ---------------------------------------------------------------------------------------


def test_node_shows_the_detections_of_every_photo(node_classes, face_models, astronaut):
    """As ComfyUI calls it: on a clone of the class that carries the hidden inputs."""
    node = node_classes["ConsisIDFaceAnalyzer"].PREPARE_CLASS_CLONE({})
    with torch.inference_mode():
        output = node.EXECUTE_NORMALIZED(
            face_models=face_models, image=to_images(astronaut, astronaut[:, ::-1]), selection="largest", face_index=0,
            background="keep",
        )  # fmt: skip
    detections = output.args[2]
    shown = output.ui.as_dict()["images"] if hasattr(output.ui, "as_dict") else output.ui["images"]
    assert len(shown) == 2
    for entry, expected in zip(shown, detections, strict=True):
        assert entry["type"] == "temp"
        path = Path(folder_paths.get_temp_directory(), entry["subfolder"], entry["filename"])
        assert np.array_equal(np.array(Image.open(path)), (255 * expected.numpy()).astype(np.uint8))


# ---- many photos ---------------------------------------------------------------------------------------------------


@pytest.fixture
def progress(monkeypatch):
    """What ComfyUI hears of the progress: (value, total) in order. A function put into `on_step` gets each value."""

    def hook(value, total, preview, **_):
        steps.append((value, total))
        if steps.on_step:
            steps.on_step(value)

    class Steps(list):
        on_step = None

    steps = Steps()
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    return steps


def test_progress_counts_the_photos_and_can_be_interrupted(run_node, face_models, astronaut, progress):
    def analyze(count):
        images = to_images(astronaut).expand(count, -1, -1, -1)
        return run_node("ConsisIDFaceAnalyzer", face_models=face_models, image=images)[0]

    progress.on_step = lambda value: comfy.model_management.interrupt_current_processing(value == 10)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        analyze(60)
    assert progress == [(number, 60) for number in range(1, 11)]

    progress.clear()
    progress.on_step = None
    assert len(analyze(3).embedding) == 3
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_memory_stays_flat(run_node, face_models, astronaut):
    images, process = to_images(astronaut), psutil.Process()

    def analyze(count):
        for _ in range(count):
            run_node("ConsisIDFaceAnalyzer", face_models=face_models, image=images)
        return process.memory_info().rss / 2**20

    sizes = [analyze(20) for _ in range(4)]
    steps = [after - before for before, after in zip(sizes, sizes[1:], strict=False)]
    print("memory growth in MiB over 20 pictures, three times after 20 to warm up:", steps)
    # A leak grows every time; what other tests of this process have left behind comes or goes once. The bound is a
    # fifteenth of 50 MiB in 300 pictures.
    assert min(steps) < 50 / 15


# ---- the reference's order of operations ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parser_file(models_dir):
    """A random face parser at full width, the only one that facexlib's net can load."""
    name = f"{DEMO}/parsing_full_width.pth"
    parser = randomise(BiSeNet(num_class=19), seed=1)  # a seed that whitens part of the crop
    torch.save(parser.state_dict(), models_dir / "consisid" / name)
    yield name
    (models_dir / "consisid" / name).unlink()


def official_face_path(models_dir, parser_file, photo, landmarks):
    """diffusers' `process_face_embeddings` on a photo, with its own nets on our weights and given landmarks.

    Returns (crop uint8 RGB, id_cond, hidden states, colour image, the EVA tower's input).
    """
    from facexlib.utils import face_restoration_helper

    class Helper(face_restoration_helper.FaceRestoreHelper):
        def get_face_landmarks_5(self, only_center_face):  # in place of the RetinaFace, which needs a download
            self.all_landmarks_5 = [landmarks]

    with pytest.MonkeyPatch.context() as patch:
        for init in ("init_detection_model", "init_parsing_model"):
            patch.setattr(face_restoration_helper, init, lambda *_, **__: None)
        helper = Helper(upscale_factor=1, face_size=512, crop_ratio=(1, 1))
    helper.face_parse = BiSeNet(num_class=19).eval()
    helper.face_parse.load_state_dict(torch.load(models_dir / "consisid" / parser_file))

    eva_weights = torch.load(models_dir / f"consisid/{DEMO}/EVA02_CLIP_L_336_psz14_s6B.pt")
    eva_weights = {name.removeprefix("visual."): x.float() for name, x in eva_weights.items() if "visual." in name}
    output_dim, width = eva_weights["head.weight"].shape
    config = get_model_config("EVA02-CLIP-L-14-336")["vision_cfg"]
    tower = _build_vision_tower(output_dim, config | {"width": width}).eval()
    missing, unexpected = tower.load_state_dict(eva_weights, strict=False)
    assert not unexpected and all("rope" in name for name in missing)
    seen = []
    tower.register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    app = FaceAnalysis(
        name=str(models_dir / "insightface/models" / DEMO), allowed_modules=["detection", "recognition"],
        providers=["CPUExecutionProvider"],
    )  # fmt: skip
    app.prepare(ctx_id=0, det_size=(640, 640))
    with torch.inference_mode():
        id_cond, hidden, colour, _ = reference.process_face_embeddings(
            helper, tower, None, reference.OPENAI_DATASET_MEAN, reference.OPENAI_DATASET_STD, app, "cpu",
            torch.float32, photo,
        )  # fmt: skip
    return cv2.cvtColor(helper.cropped_faces[0], cv2.COLOR_BGR2RGB), id_cond, hidden, colour, seen[0]


@pytest.fixture
def extractor_inputs():
    """What every facial extractor that runs during the test was given: (id_cond, five hidden states) each."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    seen = []

    def record(module, args):
        if type(module).__name__ == "LocalFacialExtractor":
            seen.append(args)

    handle = register_module_forward_pre_hook(record)
    yield seen
    handle.remove()


def test_nodes_follow_the_reference_stage_by_stage(run_node, models_dir, parser_file, extractor_inputs):
    models, photo = load(run_node, parser_file), data.astronaut()

    def analyze(background):
        return run_node("ConsisIDFaceAnalyzer", face_models=models, image=to_images(photo), background=background)[0]

    face, whole = analyze("remove"), analyze("keep")
    crop, id_cond, hidden, colour, eva_input = official_face_path(
        models_dir, parser_file, photo, whole.landmarks[0].numpy()
    )

    assert torch.equal(whole.image[0], to_images(crop)[0])
    background = (colour == 1).all(dim=1)
    assert 0.1 < background.float().mean() < 0.9
    ours = (face.image == 1).all(dim=-1)
    flipped = (ours != background).float().mean().item()
    assert flipped <= 1e-4, "labels may flip where two logits meet"
    same = ours == background
    assert torch.equal(face.image[same], colour.movedim(1, -1)[same])
    gray = reference.to_gray(to_images(crop).movedim(-1, 1))
    assert torch.equal(face.gray_image.movedim(-1, 1), torch.where(ours, torch.ones_like(gray), gray))
    # A flipped pixel (4e-6 of them) changes what follows by up to 8e-4.
    of_flips = 500 * flipped
    our_eva_input = preprocess(face.gray_image.movedim(-1, 1), models.eva.model.image_size)
    assert relative_error(our_eva_input, eva_input) <= 1e-6 + of_flips

    (model,) = run_node("ConsisIDModelLoader", model_name=f"{DEMO}/transformer")
    run_node("ConsisIDLocalIDExtractor", model=model, face_models=models, face=face)
    ((our_id_cond, our_hidden),) = extractor_inputs
    assert torch.equal(our_id_cond[:, :512].cpu(), id_cond[:, :512])
    assert len(our_hidden) == len(hidden) == 5
    pairs = zip([our_id_cond[:, 512:], *our_hidden], [id_cond[:, 512:], *hidden], strict=True)
    errors = [relative_error(ours.float().cpu(), theirs) for ours, theirs in pairs]
    print(f"nodes against process_face_embeddings, {flipped:.1e} of labels flipped, relative errors of the CLIP "
          f"embedding and the hidden states: {errors}")  # fmt: skip
    # On an accelerator the tower runs in half precision, and the model's dtype rounds what comes out.
    assert max(errors) <= (1e-4 if next(models.eva.model.parameters()).dtype == torch.float32 else 2e-2) + of_flips
