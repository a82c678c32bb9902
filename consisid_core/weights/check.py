"""Verifying the parts that a ComfyUI has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..checkpoint.files import checkpoint_files
from ..checkpoint.finite import check_finite
from ..checkpoint.fit import about
from ..checkpoint.model_folders import ModelFolders
from ..checkpoint.nets import text_encoder_weights, transformer_weights, vae_weights
from ..checkpoint.reading import read_checkpoint
from ..checkpoint.safetensors_file import FORMAT_NAMES
from ..errors import ConsisIDError, is_out_of_memory, lack_of_memory, optional_library
from .download import plan
from .hub import is_same
from .parts import Part, human, unfinished
from .status import status_of


def run(parts: Sequence[Part], folders: ModelFolders, with_hash: bool) -> int:
    """Check each part and print a line for it.

    Args:
        parts: what to check.
        folders: where to look.
        with_hash: compare each file's checksum with the hub's, too.

    Returns:
        The number of parts that are missing or wrong.

    Raises:
        ConsisIDError: the hub cannot be asked.
    """
    items = plan(parts, folders) if with_hash else []
    wrong = 0
    for part in parts:
        status = status_of(part, folders)
        try:
            if status.state == "replaced":
                print(f"{part.name}: not there; {status.note}")
                continue
            if status.state == "missing":
                raise ConsisIDError(f"missing; it belongs at {status.path}")
            note = _check_part(part, status.path)
            for item in items:
                if item.part is part and not (item.target.is_file() and is_same(item.target, item.remote)):
                    raise ConsisIDError(f"{item.target} is not the file that the hub has (size or checksum differs)")
        except ConsisIDError as error:
            wrong += 1
            print(f"{part.name}: WRONG: {error}")
        else:
            print(f"{part.name}: ok, {human(status.fetched)}: {note}{', as at the hub' if with_hash else ''}")
    return wrong


def _check_part(part, target):
    begun = list(target.glob("*.part")) if target.is_dir() else [unfinished(target)]
    if begun := [path for path in begun if path.exists()]:
        raise ConsisIDError(f"{begun[0]} is an unfinished download; run `download` again")
    path = target / part.weights
    checkpoint_files(path)  # Names missing shards, before anything is read.
    if part.name in _ONNX_NETS:
        return _check_onnx(path, *_ONNX_NETS[part.name])
    return _check_net(part, path)


def _check_net(part, path):
    """Names, shapes and values of a net's checkpoint. Returns a few words on what it holds."""
    fit = _FITS[part.name]
    checkpoint = read_checkpoint(path)
    with about(path, "Download it again"), optional_library(f"Checking {part.name}"):
        fit(checkpoint)
    from tqdm import tqdm

    with tqdm(total=len(checkpoint.tensors), unit=" parameters", desc=part.name, leave=False, delay=2) as progress:
        check_finite(checkpoint, progress.update)
    formats = "/".join(sorted({FORMAT_NAMES.get(str(x.dtype), str(x.dtype)) for x in checkpoint.tensors.values()}))
    shards = f" in {len(checkpoint.files)} files" if len(checkpoint.files) > 1 else ""
    demo = ", random demo weights" if checkpoint.is_demo else ""
    return f"{len(checkpoint.tensors)} parameters, {formats}{shards}{demo}"


def _fit_face_parsing(checkpoint):
    from ..face.parsing import BiSeNet

    BiSeNet.from_state_dict(checkpoint.tensors)


def _fit_eva_clip(checkpoint):
    from ..face.eva_clip import EvaClipVisual

    EvaClipVisual.from_state_dict(checkpoint.tensors)


def _fit_curricular_face(checkpoint):
    from ..evaluation.nets.curricularface import CurricularFace

    CurricularFace.from_state_dict(checkpoint.tensors)


_FITS = {
    "transformer": transformer_weights,
    "vae": vae_weights,
    "text_encoder": text_encoder_weights,
    "face_parsing": _fit_face_parsing,
    "eva_clip": _fit_eva_clip,
    "curricular_face": _fit_curricular_face,
}

# What the net is, and whether its outputs' sizes are those of one.
_DETECTOR = ("SCRFD detector with key points (9 outputs)", lambda sizes: len(sizes) == 9)
_RECOGNISER = ("recogniser of 512 values", lambda sizes: len(sizes) == 1 and sizes[0][-1] == 512)
_ONNX_NETS = {
    "face_detector": _DETECTOR,
    "face_recogniser": _RECOGNISER,
    "evaluation_detector": _DETECTOR,
    "evaluation_recogniser": _RECOGNISER,
}


def _check_onnx(path: Path, kind, fits):
    with optional_library(f"Checking {path}"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Its own report of the error that is raised anyway.
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # onnxruntime has an exception class for each kind of damage.
    except Exception as error:
        if is_out_of_memory(error):
            raise lack_of_memory(f"{path} cannot be checked") from None
        raise ConsisIDError(
            f"{path} cannot be read as an ONNX model ({str(error)[:200]}). It is damaged or incomplete: "
            f"{path.stat().st_size:,} bytes. Download it again."
        ) from None
    if not fits([output.shape for output in session.get_outputs()]):
        raise ConsisIDError(f"{path} is not a {kind}. Download it again.")
    return kind
