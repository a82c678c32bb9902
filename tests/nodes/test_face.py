"""The Face Analyzer: the picture on the node, and the reference's order of operations."""

from pathlib import Path

import cv2
import folder_paths
import numpy as np
import pytest
import torch
from consisid_eva_clip import get_model_config
from consisid_eva_clip.model import _build_vision_tower
from consisid_pack.consisid_core.face.eva_clip import preprocess
from diffusers.pipelines.consisid import consisid_utils as reference
from facexlib.parsing.bisenet import BiSeNet
from helpers.oracle import relative_error
from helpers.pictures import to_images
from helpers.random_nets import randomise
from insightface.app import FaceAnalysis
from PIL import Image
from skimage import data

DEMO = "consisid_demo"


def load(run_node, parsing=f"{DEMO}/parsing_bisenet.pth"):
    (models,) = run_node(
        "ConsisIDFaceModelsLoader", insightface_pack=DEMO, face_parsing=parsing,
        eva_clip=f"{DEMO}/EVA02_CLIP_L_336_psz14_s6B.pt", provider="CPU",
    )  # fmt: skip
    return models


def test_node_shows_the_detections_of_every_photo(node_classes, run_node):
    """As ComfyUI calls it: on a clone of the class that carries the hidden inputs."""
    portrait, face_models = data.astronaut()[:256, 96:352], load(run_node)
    node = node_classes["ConsisIDFaceAnalyzer"].PREPARE_CLASS_CLONE({})
    with torch.inference_mode():
        output = node.EXECUTE_NORMALIZED(
            face_models=face_models, image=to_images(portrait, portrait[:, ::-1]), selection="largest", face_index=0,
            background="keep",
        )  # fmt: skip
    detections = output.args[2]
    shown = output.ui.as_dict()["images"] if hasattr(output.ui, "as_dict") else output.ui["images"]
    assert len(shown) == 2
    for entry, expected in zip(shown, detections, strict=True):
        assert entry["type"] == "temp"
        path = Path(folder_paths.get_temp_directory(), entry["subfolder"], entry["filename"])
        assert np.array_equal(np.array(Image.open(path)), (255 * expected.numpy()).astype(np.uint8))


# The reference's order of operations


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

    Returns (crop uint8 RGB, id_cond, hidden states, colour image, the EVA tower's input, the tower).
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
    return cv2.cvtColor(helper.cropped_faces[0], cv2.COLOR_BGR2RGB), id_cond, hidden, colour, seen[0], tower


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
    crop, id_cond, hidden, colour, eva_input, tower = official_face_path(
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
    our_eva_input = preprocess(face.gray_image.movedim(-1, 1), models.eva.model.image_size)
    if flipped:  # A flipped pixel (4e-6 of them) changes what follows by up to 3e-3: see what the tower makes of ours.
        assert relative_error(our_eva_input, eva_input) <= 1e-6 + 500 * flipped
        with torch.inference_mode():
            clip_embedding, hidden = tower(our_eva_input, return_hidden=True)
        id_cond = torch.cat((id_cond[:, :512], clip_embedding / clip_embedding.norm(dim=1, keepdim=True)), dim=1)
    else:
        assert relative_error(our_eva_input, eva_input) <= 1e-6

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
    assert max(errors) <= (1e-4 if next(models.eva.model.parameters()).dtype == torch.float32 else 2e-2)
