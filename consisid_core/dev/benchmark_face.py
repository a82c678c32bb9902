"""Our way from a photo to identity tokens against diffusers', for the benchmark."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..face.align import FACE_SIZE, FFHQ_TEMPLATE
from ..face.analyze import analyze_photos
from ..face.detector import FaceDetector
from ..face.face_pack import load_pack, quiet
from ..face.parsing import BiSeNet, label_pixels, normalized
from ..face.photo import Photo
from ..model.attention import scaled_dot_product_attention
from ..model.config import FacialExtractorConfig
from ..model.facial_extractor import LocalFacialExtractor
from .benchmark_transformer import SIZES
from .demo_face_pack import write_demo_face_pack
from .measuring import AGREEMENT, Row, memory_row, require_agreement, stored_dtype, timed_rows, timings
from .random_weights import randomize
from .reference import importing_diffusers, importing_face_path

PHOTOS = {"small": 256, "mid": 1024, "full": 1024}
"""Width and height in pixels; a larger photo is shrunk to 1024 by both."""
SECOND_DETECTORS = {"small": "mobile0.25", "mid": "resnet50", "full": "resnet50"}
"""facexlib's; the reference takes the larger one."""
TOWERS = {"small": {"width": 64, "layers": 21, "patch_size": 4, "image_size": 20}, "mid": {}, "full": {}}
"""What differs from the released EVA-CLIP."""
CLIP_DIM = {"small": 24, "mid": 768, "full": 768}

STAND_INS = (
    "YuNet and SFace on both sides in place of antelopev2; BiSeNet, EVA-CLIP and facexlib's detector with random "
    "weights, the latter with the findings of YuNet"
)

Identity = tuple[np.ndarray, torch.Tensor, list[torch.Tensor]]
"""The colour crop, uint8 [512, 512, 3], what the recogniser and the EVA tower say of it, [1, id_dim], and the tower's
hidden states."""


def extractor_config(size: str) -> FacialExtractorConfig:
    """Of a facial extractor that takes what the tower of this size gives."""
    width = TOWERS[size].get("width", FacialExtractorConfig.vit_dim)
    return replace(SIZES[size].facial_extractor, id_dim=512 + CLIP_DIM[size], vit_dim=width)


class SecondDetector:
    """facexlib's detector as it looks at a photo. Its weights are random, so what it finds is given."""

    def __init__(self, net: nn.Module | None, found: np.ndarray):
        """
        Args:
            net: None looks at nothing.
            found: [1, 15] box, score and landmarks.
        """
        self.net, self.found = net, found

    def detect_faces(self, image: np.ndarray, threshold: float) -> np.ndarray:
        """[1, 15], for whatever image."""
        if self.net is not None:
            self.net.detect_faces(image, threshold)
        return self.found


class FaceContest:
    """Both ways from one photo to an identity, with the same weights."""

    def __init__(self, size: str, device: str, dtype: torch.dtype):
        """
        Args:
            dtype: of the EVA tower; the parser is float32 on both sides, as in the reference.

        Raises:
            ConsisIDError: what the reference or the stand-ins are made of does not import.
        """
        with importing_face_path():
            import skimage.data
            from consisid_eva_clip import get_model_config
            from consisid_eva_clip.model import _build_vision_tower
            from diffusers.pipelines.consisid import consisid_utils
            from facexlib.parsing.bisenet import BiSeNet as TheirBiSeNet
            from skimage.transform import resize

            from ..face.eva_clip import EvaClipVisual, preprocess
        self._process, self._preprocess = consisid_utils.process_face_embeddings_infer, preprocess
        self._statistics = consisid_utils.OPENAI_DATASET_MEAN, consisid_utils.OPENAI_DATASET_STD
        self.device, self.dtype = device, dtype
        side = PHOTOS[size]
        self.photo = np.rint(resize(skimage.data.astronaut() / 255, (side, side)) * 255).astype(np.uint8)

        parser = TheirBiSeNet(19)
        randomize(parser.state_dict(), seed=0)
        for module in parser.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1)  # Less would leave nothing of the picture: one label for all of it.
        self.theirs_parser = parser.requires_grad_(False).eval().to(device)
        self.parser = BiSeNet.from_state_dict(parser.state_dict())
        tower = _build_vision_tower(
            CLIP_DIM[size], get_model_config("EVA02-CLIP-L-14-336")["vision_cfg"] | TOWERS[size]
        )
        randomize(dict(tower.named_parameters()), seed=1)
        self.theirs_tower = tower.requires_grad_(False).eval().to(device, dtype)
        self.tower = EvaClipVisual.from_state_dict(tower.state_dict()).to(device)

        with tempfile.TemporaryDirectory() as folder:
            write_demo_face_pack(folder)
            self.detector = FaceDetector(folder, ["CPUExecutionProvider"])
            self.app = load_pack(Path(folder).absolute(), ["CPUExecutionProvider"])
        self._helpers = {
            has_detector: self._facexlib(SECOND_DETECTORS[size] if has_detector else None)
            for has_detector in (True, False)
        }

    def _facexlib(self, detector):
        """facexlib's helper as the reference builds it, which itself would fetch weights."""
        with importing_face_path():
            from facexlib.detection.retinaface import RetinaFace
            from facexlib.utils.face_restoration_helper import FaceRestoreHelper
        net = None
        if detector:
            net = RetinaFace(detector, device=self.device).requires_grad_(False)
            randomize(net.state_dict(), seed=2)
            for parameter in net.ClassHead.parameters():
                parameter.zero_()  # No place scores more than the threshold, so nothing has to be sorted out.
        (face,) = self.detector.detect(Photo(self.photo))
        found = np.concatenate((face.bbox, [face.score], face.landmarks.ravel()))[None]
        helper = FaceRestoreHelper.__new__(FaceRestoreHelper)
        helper.template_3points = helper.pad_blur = False
        helper.face_size, helper.face_template = (FACE_SIZE, FACE_SIZE), FFHQ_TEMPLATE
        helper.face_det, helper.face_parse = SecondDetector(net, found), self.theirs_parser
        return helper

    def ours(self) -> Identity:
        """As ConsisID Face Analyzer and ConsisID Local ID Extractor do it."""
        image = torch.from_numpy(self.photo)[None].float() / 255
        face, _ = analyze_photos(self.detector, self.parser, image, "largest", 0)
        pixels = self._preprocess(face.gray_image.movedim(-1, 1).to(self.device), self.tower.image_size)
        embedding, hidden_states = self.tower(pixels)
        embedding = torch.cat((face.embedding.to(embedding), embedding), dim=-1)
        return (face.image[0].numpy() * 255).astype(np.uint8), embedding, hidden_states

    def theirs(self, with_second_detector: bool = True) -> Identity:
        """As diffusers' `process_face_embeddings_infer` does it."""
        embedding, hidden_states, picture, _ = self._process(
            self._helpers[with_second_detector], self.theirs_tower, None, *self._statistics, self.app, self.device,
            self.dtype, self.photo,
        )  # fmt: skip
        return np.asarray(picture), embedding, hidden_states


@quiet()
@torch.inference_mode()
def compare_face(size: str, device: str, dtype: str, repeats: int) -> tuple[str, list[Row]]:
    """Measure the whole way, and the nets that both sides run.

    Returns:
        (what was measured, rows).

    Raises:
        ConsisIDError: the results disagree, a library is missing, or the nets know no such dtype.
    """
    stored = stored_dtype("face path", dtype)
    contest = FaceContest(size, device, stored)
    extractor, theirs_extractor = build_extractors(extractor_config(size), device, stored)
    crop = torch.rand(1, 3, FACE_SIZE, FACE_SIZE, generator=torch.Generator().manual_seed(3)).to(device)
    pixels = torch.nn.functional.interpolate(crop, contest.tower.image_size).to(contest.dtype)
    features = contest.tower(pixels)
    features = torch.cat((torch.zeros(1, 512).to(features[0]), features[0]), dim=-1), features[1]

    calls: dict[str, tuple[Callable, Callable]] = {
        "photo to tokens": (lambda: extractor(*contest.ours()[1:]), lambda: theirs_extractor(*contest.theirs()[1:])),
        "the same without facexlib's detector": (
            lambda: extractor(*contest.ours()[1:]), lambda: theirs_extractor(*contest.theirs(False)[1:]),
        ),
        "face parsing": (
            lambda: label_pixels(contest.parser, crop),
            lambda: contest.theirs_parser(normalized(crop))[0].argmax(dim=1, keepdim=True),
        ),
        "EVA tower": (lambda: contest.tower(pixels), lambda: contest.theirs_tower(
            pixels, return_all_features=False, return_hidden=True, shuffle=False
        )),
        "facial extractor": (lambda: extractor(*features), lambda: theirs_extractor(*features)),
    }  # fmt: skip
    whole = calls["photo to tokens"]
    require_agreement("face paths", *(call() for call in whole), AGREEMENT[dtype])
    times = timings([call for pair in calls.values() for call in pair], device, repeats)
    rows = []
    for number, what in enumerate(calls):
        rows += timed_rows(what, *times[2 * number : 2 * number + 2], device)
    rows.append(memory_row("photo to tokens", *whole, device))
    return f"a photo of {PHOTOS[size]}x{PHOTOS[size]}; {STAND_INS}", rows


def build_extractors(config: FacialExtractorConfig, device: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Our facial extractor and diffusers' on the same random weights.

    Raises:
        ConsisIDError: diffusers does not import.
    """
    with importing_diffusers():
        from diffusers.models.transformers.consisid_transformer_3d import LocalFacialExtractor as Theirs
    theirs_names = {
        "num_scales": "num_scale", "heads": "heads", "head_dim": "dim_head", "num_id_tokens": "num_id_token",
    }  # fmt: skip
    theirs = Theirs(**{theirs_names.get(name, name): value for name, value in asdict(config).items()})
    randomize(theirs.state_dict(), seed=4)
    ours = LocalFacialExtractor(config, scaled_dot_product_attention)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return tuple(net.requires_grad_(False).eval().to(device, dtype) for net in (ours, theirs))
