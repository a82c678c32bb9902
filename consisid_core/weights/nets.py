"""What a checkpoint must hold to be one of ConsisID's nets: names and shapes, compared on torch's meta device."""

from ..checkpoint.files import SAVED_CONFIG, parse_json
from ..checkpoint.fit import about, check_names, transformer_prefix
from ..checkpoint.net_config import (
    T5_VOCABULARY,
    infer_t5_config,
    infer_transformer_config,
    infer_vae_config,
    t5_shapes,
)
from ..errors import ConsisIDError, optional_library
from .source import open_source, read_bytes

QUANTISED = (
    "scaled_fp8", ".comfy_quant", ".scale_weight", ".scale_input", ".weight_scale", ".weight_scale_2", ".input_scale",
    ".pre_quant_scale",
)  # fmt: skip
"""Ends of the names of what stands beside quantised weights."""


def identify(names):
    """The name of the part (see layout.PARTS) whose parameters these names are, or None."""
    marks = {
        "transformer": "local_facial_extractor.proj_out",
        "vae": "decoder.mid_block.resnets.0.norm1.conv_y.conv.weight",
        "text_encoder": "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    }
    return next((part for part, mark in marks.items() if any(name.endswith(mark) for name in names)), None)


def is_usable_text_encoder(source):
    """Whether this is T5 v1.1 XXL, whoever published it."""
    shapes = source.shapes
    return (T5_VOCABULARY, 4096) in (shapes.get("shared.weight"), shapes.get("encoder.embed_tokens.weight"))


def check_net(part, path):
    """Names and shapes of a part's checkpoint. part: a name of layout.PARTS. Returns a few words on what it holds.

    Raises ConsisIDError naming the file and what is wrong with it.
    """
    if part in _ONNX_CHECKS:
        return _check_onnx(path, *_ONNX_CHECKS[part])
    source = open_source(path)
    with about(path, "Download it again."):
        _CHECKS[part](source)
    formats = "/".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in source.tensors.values()}))
    shards = f" in {len(source.files)} files" if len(source.files) > 1 else ""
    return f"{len(source.tensors)} parameters, {formats}{shards}{', random demo weights' if source.is_demo else ''}"


def transformer_tensors(source):
    """The transformer's tensors under diffusers' names, out of whatever surrounds them, and its TransformerConfig.

    Raises ConsisIDError, worded to follow the name of the file.
    """
    import torch

    from ..model.transformer import ConsisIDTransformer

    prefix = transformer_prefix(source.tensors)
    tensors = {n.removeprefix(prefix): tensor for n, tensor in source.tensors.items() if n.startswith(prefix)}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(QUANTISED)}
    config = source.config
    if (saved := tensors.pop(SAVED_CONFIG, None)) is not None:
        config = parse_json(read_bytes(saved).decode(errors="replace"), f"has a {SAVED_CONFIG} that")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    config = infer_transformer_config(shapes, config)
    with torch.device("meta"):
        check_names(shapes, {name: x.shape for name, x in ConsisIDTransformer(config).state_dict().items()})
    return tensors, config


def _check_vae(source):
    import torch

    from ..model.vae import CogVideoXVAE

    with torch.device("meta"):
        net = CogVideoXVAE(**infer_vae_config(source.shapes))
    check_names(source.shapes, {name: x.shape for name, x in net.state_dict().items()})


def _check_text_encoder(source):
    shapes = {name: shape for name, shape in source.shapes.items() if not name.endswith(QUANTISED)}
    if "encoder.embed_tokens.weight" in shapes:
        shapes.setdefault("shared.weight", shapes["encoder.embed_tokens.weight"])
    expected = t5_shapes(infer_t5_config(shapes))
    # Whole T5 models carry a decoder, and some files a tokenizer; both stay unused.
    check_names({name: shape for name, shape in shapes.items() if name in expected}, expected)


def _check_face_parsing(source):
    from ..face.parsing import BiSeNet

    BiSeNet.from_state_dict(source.tensors)


def _check_eva_clip(source):
    from ..face.eva_clip import EvaClipVisual

    EvaClipVisual.from_state_dict(source.tensors)


def _check_curricular_face(source):
    from ..evaluation.nets.curricularface import CurricularFace

    CurricularFace.from_state_dict(source.tensors)


_CHECKS = {
    "transformer": transformer_tensors,
    "vae": _check_vae,
    "text_encoder": _check_text_encoder,
    "face_parsing": _check_face_parsing,
    "eva_clip": _check_eva_clip,
    "curricular_face": _check_curricular_face,
}

# What the net is, and whether its outputs' sizes are those of one.
_DETECTOR = ("SCRFD detector with key points (9 outputs)", lambda sizes: len(sizes) == 9)
_RECOGNISER = ("recogniser of 512 values", lambda sizes: len(sizes) == 1 and sizes[0][-1] == 512)
_ONNX_CHECKS = {
    "face_detector": _DETECTOR,
    "face_recogniser": _RECOGNISER,
    "evaluation_detector": _DETECTOR,
    "evaluation_recogniser": _RECOGNISER,
}


def _check_onnx(path, kind, fits):
    with optional_library(f"Checking {path}"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Its own report of the error that is raised anyway.
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # onnxruntime has an exception class for each kind of damage.
    except Exception as error:
        raise ConsisIDError(
            f"{path} cannot be read as an ONNX model ({str(error)[:200]}). It is damaged or incomplete: "
            f"{path.stat().st_size:,} bytes. Download it again."
        ) from None
    if not fits([output.shape for output in session.get_outputs()]):
        raise ConsisIDError(f"{path} is not a {kind}. Download it again.")
    return kind
