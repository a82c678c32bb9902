"""Face nets in ComfyUI's memory management, and the way from photos to a FACE."""

import logging
import weakref
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import numpy as np
import torch
from comfy.patcher_extension import CallbacksMP

from ..checkpoint.finite import check_finite
from ..checkpoint.fit import about
from ..errors import ConsisIDError, optional_library
from ..face.align import FACE_SIZE
from ..face.analysis import (
    FaceDetector,
    align_photo,
    draw_detections,
    order_faces,
    resolve_providers,
    select_face,
    to_photo,
)
from ..face.quality import quality_hints
from ..face.same_person import SAME_PERSON, disagreeing_photos
from ..types import Face
from .weight_files import log_demo_weights, read_weights

log = logging.getLogger("consisid")


@dataclass(frozen=True)
class FaceModels:
    """The three nets of the face path, loaded once; ComfyUI loads and unloads each as it does its own models."""

    detector: comfy.model_patcher.ModelPatcher
    """Detection and recognition, in onnxruntime: its `model` is a `ResidentDetector`."""
    parser: comfy.model_patcher.ModelPatcher
    """BiSeNet face parsing."""
    eva: comfy.model_patcher.ModelPatcher
    """EVA02-CLIP image tower."""


class ResidentDetector(torch.nn.Module):
    """A FaceDetector whose sessions live only while ComfyUI keeps this module loaded.

    It has no parameters: onnxruntime holds the weights, outside of torch's memory.
    """

    def __init__(self, pack_folder, providers):
        super().__init__()
        self.pack_folder, self.providers = pack_folder, providers
        self.detector = None

    def start(self):
        """Make `detector` a FaceDetector, unless it is one. Raises ConsisIDError as FaceDetector does."""
        # ComfyUI reports a model as loaded at every use.
        if self.detector is None:
            self.detector = FaceDetector(self.pack_folder, self.providers)


_detectors = weakref.WeakValueDictionary()


def load_detector(pack_folder, provider):
    """ModelPatcher of a ResidentDetector, loaded; provider as in `PROVIDER_CHOICES`.

    The same pack and provider give the same patcher as long as someone holds it and the files stay as they are.
    Raises ConsisIDError naming the folder or file that is missing, damaged or of another kind.
    """
    folder, providers = Path(pack_folder).absolute(), resolve_providers(provider)
    stats = [(file.name, file.stat()) for file in sorted(folder.glob("*.onnx")) if file.is_file()]
    key = (folder, *providers, *((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))
    patcher = _detectors.get(key)
    if patcher is None:
        on_cpu = providers[0] == "CPUExecutionProvider"
        patcher = comfy.model_patcher.ModelPatcher(
            ResidentDetector(folder, providers),
            # The device whose models "unload models" frees, also for sessions that are in main memory.
            load_device=comfy.model_management.get_torch_device(),
            offload_device=torch.device("cpu"),
            # All files, though only two nets stay: the others' 150 MB are about what those two need to work.
            size=0 if on_cpu else sum(stat.st_size for _, stat in stats),
        )
        patcher.add_callback(CallbacksMP.ON_LOAD, _start_detector)
        patcher.add_callback(CallbacksMP.ON_DETACH, _release_detector)
        _detectors[key] = patcher
    comfy.model_management.load_models_gpu([patcher])
    return patcher


def _start_detector(patcher, *_):
    patcher.model.start()


def _release_detector(patcher, unpatch_all):
    # Without unpatch_all the model stays: ComfyUI is about to load it again, or its patcher is gone.
    if unpatch_all:
        patcher.model.detector = None


def load_face_models(pack_folder, parsing_path, eva_path, provider):
    """FaceModels from an insightface pack folder and two weight files; provider as in `PROVIDER_CHOICES`.

    Raises ConsisIDError naming the file or folder that is missing, damaged or of another kind.
    """
    with optional_library("Face analysis"):
        from ..face.eva_clip import EvaClipVisual
        from ..face.parsing import BiSeNet
    detector = load_detector(pack_folder, provider)
    if detector.model.detector.is_demo:
        log_demo_weights(pack_folder)
    parser = _load_net(BiSeNet, parsing_path, torch.float32, "Choose parsing_bisenet.pth of ConsisID-preview")
    device = comfy.model_management.text_encoder_device()
    eva_dtype = torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32
    eva = _load_net(EvaClipVisual, eva_path, eva_dtype, "Choose EVA02_CLIP_L_336_psz14_s6B.pt of ConsisID-preview")
    return FaceModels(detector, parser, eva)


def _load_net(net_class, path, dtype, remedy):
    checkpoint = read_weights(path)
    check_finite(checkpoint)
    with about(path, remedy):
        net = net_class.from_state_dict(checkpoint.tensors)
    return comfy.model_patcher.ModelPatcher(
        net.to(dtype),
        load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
    )


def analyze_faces(face_models, images, selection, face_index, background):
    """The chosen face of each photo.

    images: [B, H, W, C] photos of one person, 0..1. selection, face_index: see `select_face`.
    background: "remove" whitens everything but the person's head, "keep" leaves the crop as it is.
    Returns (Face, detections [B, H, W, 3]: the photos with every detected face drawn in).
    Logs a warning for whatever may spoil the likeness in a photo, and one that names the photos of someone else.
    Raises ConsisIDError naming the photo in which no such face is found.
    """
    from ..face.parsing import keep_background, whiten_background

    if len(images) == 0:
        raise ConsisIDError("image is an empty batch: no photo arrived from the node before.")
    # Both at once and only here: with smart memory off, loading one of them unloads the other.
    nets = [face_models.detector, face_models.parser] if background == "remove" else [face_models.detector]
    comfy.model_management.load_models_gpu(nets, memory_required=FACE_SIZE**2 * 600)
    detector = face_models.detector.model.detector
    parser, parser_device = face_models.parser.model, face_models.parser.load_device
    progress = comfy.utils.ProgressBar(len(images))
    faces, alignments, colours, grays, drawings = [], [], [], [], []
    for number, image in enumerate(images, start=1):
        comfy.model_management.throw_exception_if_processing_interrupted()
        try:
            photo = to_photo(image)
            found = detector.detect(photo)
            chosen = select_face(found, selection, face_index, photo.shape[:2])
            crop, alignment = align_photo(photo, found[chosen])
            hints = quality_hints(photo, found[chosen])
        except ConsisIDError as error:
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise ConsisIDError(f"Photo {number} of {len(images)} ({size}): {error}") from None
        if len(found) > 1:
            log.info(
                "Photo %d of %d shows %d faces: taking number %d by %s.",
                number, len(images), len(found), face_index, selection,
            )  # fmt: skip
        for hint in hints:
            log.warning("Photo %d of %d: %s", number, len(images), hint)
        crop = _to_tensor(crop).movedim(-1, 1)
        if background == "remove":
            colour, gray = whiten_background(parser, crop.to(parser_device))
        else:
            colour, gray = keep_background(crop)
        faces.append(found[chosen])
        alignments.append(torch.from_numpy(alignment))
        colours.append(colour.movedim(1, -1).cpu())
        grays.append(gray.movedim(1, -1).cpu())
        # Numbered in the order of the selection, so that the number in the picture is the face_index to choose.
        ordered = [found[i] for i in order_faces(found, selection, photo.shape[:2])]
        drawings.append(_to_tensor(draw_detections(photo, ordered, face_index)))
        progress.update(1)
    face = Face(
        embedding=torch.from_numpy(np.stack([face.embedding for face in faces])),
        landmarks=torch.from_numpy(np.stack([face.landmarks for face in faces])),
        bbox=torch.from_numpy(np.stack([face.bbox for face in faces])),
        score=torch.tensor([face.score for face in faces]),
        image=torch.cat(colours),
        gray_image=torch.cat(grays),
        alignment=torch.stack(alignments),
    )
    _warn_of_strangers(face)
    return face, torch.cat(drawings)


def _warn_of_strangers(face):
    apart = disagreeing_photos(face.embedding)
    if not apart:
        return
    scores = ", ".join(f"photo {number} ({cosine:.2f})" for number, cosine in apart)
    count = len(face.embedding)
    if len(apart) == count:
        finding = f"The {count} photos differ, no two seem to show the same person"
    else:
        finding = f"Of the {count} photos, some do not seem to show the person of the others"
    log.warning(
        "%s: %s; one person has a cosine of %.1f or more. All are used, the first for shape, the mean of all for "
        "detail: take out photos of others, or choose another face by selection and face_index.",
        finding, scores, SAME_PERSON,
    )  # fmt: skip


def _to_tensor(picture):
    """uint8 [H, W, 3] -> float32 [1, H, W, 3] in 0..1."""
    return torch.from_numpy(picture).float().div(255).unsqueeze(0)
