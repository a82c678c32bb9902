"""insightface's model pack that the user installed: which files it takes, and loading it."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConsisIDError, is_out_of_memory, lack_of_memory

if TYPE_CHECKING:
    from insightface.app import FaceAnalysis

DETECTOR_SIZE = (640, 640)
"""Input of the detector in pixels (diffusers `consisid_utils.py:350`)."""

THRESHOLD = 0.5
"""Least confidence of a face, insightface's default."""

EMBEDDING_SIZE = 512
"""Length of the recogniser's output that ConsisID was trained on."""

_PACK_URL = "https://github.com/deepinsight/insightface/releases/tag/v0.7 (antelopev2.zip; to evaluate buffalo_l.zip)"


def load_pack(folder: Path, providers: Sequence[str]) -> FaceAnalysis:
    """Loads the detector and the recogniser of a pack, ready to use; never downloads.

    Args:
        folder: absolute path of the folder with the pack's .onnx files.
        providers: onnxruntime provider ids, best first.

    Raises:
        ConsisIDError: the folder or a net is missing, a file is broken or of another kind, or insightface does not
            work here.
    """
    import torch

    files = _pack_files(folder)
    names = ", ".join(file.name for file in files)
    try:
        with quiet():
            import onnxruntime
            from insightface.app import FaceAnalysis
    except Exception as error:  # besides ImportError, a binary built for another numpy raises ValueError
        raise ConsisIDError(
            f"Face analysis needs insightface and onnxruntime, which do not work in this Python ({error}): "
            "pip install insightface onnxruntime"
        ) from None
    # onnxruntime's own threads wait for each other in loops: as many as PyTorch's, so that OMP_NUM_THREADS is for both.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        with quiet():
            # An absolute folder as the name is taken as it is: insightface 2 means to, 1 joins it to its own root.
            app = FaceAnalysis(
                name=str(folder), allowed_modules=["detection", "recognition"], providers=providers,
                sess_options=options,
            )  # fmt: skip
        prepare(app)
    except AssertionError:  # insightface's way to say that no detector was among the files
        raise ConsisIDError(
            f"insightface finds no face detector among the files of {folder} ({names}). "
            f"It should hold scrfd_10g_bnkps.onnx of antelopev2: {_PACK_URL}"
        ) from None
    except Exception as error:
        if is_out_of_memory(error):
            raise lack_of_memory(f"The face models in {folder} cannot be loaded") from None
        culprit = next((file.name for file in files if file.name in str(error)), f"one of {names}")
        raise ConsisIDError(
            f"A face model in {folder} cannot be loaded: {culprit} is broken, half downloaded or not a face model. "
            f"Replace it: {_PACK_URL}. Reported: {' '.join(str(error).split())[:200]}"
        ) from None
    if "recognition" not in app.models:
        raise ConsisIDError(
            f"insightface finds no face recogniser among the files of {folder} ({names}). "
            f"It should hold glintr100.onnx of antelopev2: {_PACK_URL}"
        )
    if not app.det_model.use_kps:
        raise ConsisIDError(
            f"The face detector in {folder} gives no landmarks, and ConsisID aligns faces by them. "
            f"Use scrfd_10g_bnkps.onnx of antelopev2: {_PACK_URL}"
        )
    size = app.models["recognition"].output_shape[-1]
    if isinstance(size, int) and size != EMBEDDING_SIZE:  # a name stands for a size that the file leaves open
        raise ConsisIDError(
            f"The face recogniser in {folder} gives {size} numbers; ConsisID needs the {EMBEDDING_SIZE} of "
            f"glintr100.onnx from antelopev2: {_PACK_URL}"
        )
    return app


def prepare(app: FaceAnalysis, det_size: tuple[int, int] = DETECTOR_SIZE, det_thresh: float = THRESHOLD) -> None:
    """Sets how the detector of a loaded pack looks.

    Args:
        app: from `load_pack`.
        det_size: (width, height) of the detector's input in pixels; a net with a fixed one ignores it.
        det_thresh: least confidence of a face, 0..1.
    """
    with quiet():
        app.prepare(ctx_id=0, det_size=det_size, det_thresh=det_thresh)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context without what insightface prints while it loads and, through scikit-image, warns of at every face."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _pack_files(folder):
    """The pack's .onnx files, or an error that says what is wrong with the folder. insightface would download."""
    if not folder.is_dir():
        raise ConsisIDError(
            f"The face model folder {folder} does not exist. Create it and put the .onnx files of antelopev2 "
            f"into it: {_PACK_URL}"
        )
    files = sorted(folder.glob("*.onnx"))
    if files:
        return files
    nested = next(folder.glob("*/*.onnx"), None)
    if nested:
        raise ConsisIDError(
            f"The face model folder {folder} holds its .onnx files one level too deep, in {nested.parent.name}: "
            f"move the .onnx files up one level, from {nested.parent} to {folder}."
        )
    raise ConsisIDError(
        f"The face model folder {folder} holds no .onnx files. Put those of antelopev2 into it: {_PACK_URL}"
    )
