"""Face nets in ComfyUI's memory management."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP

from ..checkpoint.finite import check_finite
from ..checkpoint.fit import about
from ..errors import optional_library
from ..face.analyze import analyze_photos
from ..face.detector import FaceDetector
from ..face.parsing import BiSeNet
from ..face.providers import resolve_providers
from ..types import Face
from .weight_files import log_demo_weights, log_note, read_weights

# Bytes that one crop takes in each net beside weights, so that ComfyUI frees as much: the tensors that live at once,
# counted by `dev/memory_count.py` for the released sizes in float32 (35.0 and 66.7 MiB), rounded up. ComfyUI never
# frees less than 0.8 GiB, which leaves room for what kernels take for themselves.
PARSING_MEMORY = 36 * 2**20
"""`whiten_background` of a 512 px crop."""
EVA_MEMORY = 70 * 2**20
"""The same crop through `preprocess` and the EVA tower at 336 px; the facial extractor after it takes less."""


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

    def __init__(self, pack_folder: Path, providers: list[str]) -> None:
        super().__init__()
        self.pack_folder, self.providers = pack_folder, providers
        self.detector: FaceDetector | None = None

    def start(self) -> None:
        """Makes `detector` a FaceDetector, unless it is one.

        Raises:
            ConsisIDError: as FaceDetector does.
        """
        # ComfyUI reports a model as loaded at every use.
        if self.detector is None:
            self.detector = FaceDetector(self.pack_folder, self.providers)


_detectors = weakref.WeakValueDictionary()


def load_detector(pack_folder: Path | str, provider: str) -> comfy.model_patcher.ModelPatcher:
    """ModelPatcher of a ResidentDetector, loaded.

    The same pack and provider give the same patcher as long as someone holds it and the files stay as they are.

    Args:
        pack_folder: folder of an insightface pack.
        provider: one of `PROVIDER_CHOICES`.

    Raises:
        ConsisIDError: naming the folder or file that is missing, damaged or of another kind.
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


def load_face_models(
    pack_folder: Path | str, parsing_path: Path | str, eva_path: Path | str, provider: str
) -> FaceModels:
    """FaceModels from an insightface pack and two weight files.

    Args:
        pack_folder: folder of an insightface pack.
        parsing_path: facexlib's BiSeNet face parser.
        eva_path: EVA02-CLIP-L-14-336, whole or its image tower.
        provider: one of `PROVIDER_CHOICES`, for the pack.

    Raises:
        ConsisIDError: naming the file or folder that is missing, damaged or of another kind.
    """
    with optional_library("Face analysis"):
        from ..face.eva_clip import EvaClipVisual
    detector = load_detector(pack_folder, provider)
    if note := detector.model.detector.note:
        log_note(pack_folder, note)
    elif detector.model.detector.is_demo:
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


def analyze_faces(
    face_models: FaceModels, images: torch.Tensor, selection: str, face_index: int, background: str
) -> tuple[Face, torch.Tensor]:
    """The chosen face of each photo, with ComfyUI's memory management, progress bar and cancel.

    Args:
        face_models: the nets.
        images: [B, H, W, C] photos of one person, 0..1.
        selection: see `analyze_photos`.
        face_index: see `analyze_photos`.
        background: "remove" whitens everything but the person's head, "keep" leaves the crop as it is.

    Returns:
        (Face, detections [B, H, W, 3]) of `analyze_photos`.

    Raises:
        ConsisIDError: as `analyze_photos` does.
    """
    parser = face_models.parser if background == "remove" else None
    # Both at once and only here: with smart memory off, loading one of them unloads the other.
    nets = [face_models.detector, parser] if parser else [face_models.detector]
    comfy.model_management.load_models_gpu(nets, memory_required=PARSING_MEMORY)
    progress = comfy.utils.ProgressBar(len(images))

    def on_photo():
        progress.update(1)
        comfy.model_management.throw_exception_if_processing_interrupted()

    detector = face_models.detector.model.detector
    return analyze_photos(detector, parser and parser.model, images, selection, face_index, on_photo)
