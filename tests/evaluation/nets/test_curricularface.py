"""CurricularFace against modelscope's IR-101, on random weights."""

import importlib.util
import sys

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.files import DEMO_MARKER
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.nets.curricularface import CurricularFace, preprocess
from helpers.evaluation import TINY_STAGES, package_folder, relative_error
from helpers.random_nets import randomise_by_fan_in


@pytest.fixture(scope="module")
def reference_recogniser():
    """modelscope's backbones by name, without importing modelscope."""
    folder = package_folder("modelscope") / "models/cv/face_recognition/torchkit/backbone"
    spec = importlib.util.spec_from_file_location(
        "ir_oracle", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["ir_oracle"] = module
    spec.loader.exec_module(module)
    return lambda name: randomise_by_fan_in(module.get_model(name)([112, 112]), gain=0.5)


@pytest.mark.parametrize("name, parameters", [("IR_101", 65_150_912), ("IR_18", 24_020_352)])
def test_recogniser_equals_reference_at_full_size(reference_recogniser, crops, name, parameters):
    reference = reference_recogniser(name)
    recogniser = CurricularFace.from_state_dict(reference.state_dict())
    assert not recogniser.training
    assert sum(x.numel() for x in recogniser.parameters()) == parameters
    x = torch.cat([preprocess(crop) for crop in (crops[0][0], crops[1][0])])
    expected = reference(x)
    assert expected.isfinite().all()
    assert torch.cosine_similarity(expected[0], expected[1], dim=0) < 0.98
    error = relative_error(recogniser(x), expected)
    print(f"{name} against modelscope, relative error: {error}")
    assert error <= 1e-5


def test_recogniser_takes_a_face_as_the_paper_does(crops):
    # Half the size by bilinear sampling is the mean of four pixels, rounded.
    a, b, c, d = (crops[0][0][y::2, x::2].astype(int) for y in (0, 1) for x in (0, 1))
    expected = torch.from_numpy((a + b + c + d + 2) // 4).permute(2, 0, 1)[None].float()
    x = preprocess(crops[0][0])
    assert x.shape == (1, 3, 112, 112)
    assert x.dtype == torch.float32
    assert torch.equal(x, (expected / 255 - 0.5) / 0.5)


def write_recogniser(path, **extra):
    net = randomise_by_fan_in(CurricularFace(TINY_STAGES), gain=0.5)
    torch.save(net.state_dict() | extra, path)
    return net


@pytest.mark.parametrize("with_counters", [True, False])
def test_tiny_recogniser_is_read_back_from_its_file(tmp_path, crops, with_counters):
    path = tmp_path / "glint360k_curricular_face_r101_backbone.bin"
    net = write_recogniser(path, **{DEMO_MARKER: torch.ones(1)})
    assert path.stat().st_size < 5_000_000
    weights = read_checkpoint(path).tensors
    if not with_counters:
        weights = {name: x for name, x in weights.items() if not name.endswith("num_batches_tracked")}
        assert len(weights) < len(net.state_dict())
    recogniser = CurricularFace.from_state_dict(weights).to("cpu", torch.float32)
    x = torch.cat([preprocess(crop) for crop in crops[0][:2]])
    embeddings = recogniser(x)
    assert embeddings.shape == (2, 512)
    assert torch.equal(embeddings, net(x))
    assert recogniser.state_dict().keys() == net.state_dict().keys()


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda w: w.clear(),
            "is not a CurricularFace .* input_layer.0.weight is missing; it looks like an empty file",
        ),
        (
            lambda w: [w.clear(), w.update({"layer1.0.bn1.weight": torch.zeros(1)})],
            "it looks like weights of another kind .first names: layer1.0.bn1.weight",
        ),
        (lambda w: w.pop("body.3.res_layer.4.weight"), "1 missing: body.3.res_layer.4.weight"),
        (lambda w: w.update({"body.0.res_layer.se_block.fc1.weight": torch.zeros(1)}), "1 unknown: .*se_block"),
        (
            lambda w: w.update({"output_layer.3.weight": torch.zeros(512, 24 * 14 * 14)}),
            r"wrong shape: output_layer.3.weight \(512, 4704\) instead of \(512, 1176\)",
        ),
        (
            lambda w: [w.pop(name) for name in list(w) if name.startswith("body.4.")],
            "4 units in 3 stages, where 4 stages are needed, or body.4.res_layer.1.weight is missing",
        ),
    ],
)
def test_recogniser_says_what_is_wrong_with_a_file(change, message):
    weights = CurricularFace(TINY_STAGES).state_dict()
    change(weights)
    with pytest.raises(ConsisIDError, match=message):
        CurricularFace.from_state_dict(weights)
