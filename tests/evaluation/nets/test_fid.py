"""Distances against torchvision's Inception as the paper's code uses it, and against torch-fidelity's own command, on
random weights."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from consisid_pack.consisid_core.checkpoint.reading import read_checkpoint
from consisid_pack.consisid_core.errors import ConsisIDError
from consisid_pack.consisid_core.evaluation.nets import fid
from consisid_pack.consisid_core.evaluation.nets.inception import PAPER_KIND, TRUE_KIND, Inception
from helpers.evaluation import relative_error
from helpers.processes import SECONDS
from PIL import Image
from torchvision import models, transforms


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
    inception = Inception.from_state_dict(paper_weights)
    assert inception.kind == PAPER_KIND
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
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 0, result.stderr
    expected = json.loads(result.stdout)["frechet_inception_distance"]

    inception = Inception.from_state_dict(read_checkpoint(weights).tensors)
    assert inception.kind == TRUE_KIND
    features = [np.stack([inception.features(picture) for picture in pictures]) for pictures in crops]
    assert features[0].shape == (8, 2048)
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
        Inception.from_state_dict(fidelity_weights)
    with pytest.raises(ConsisIDError, match="A true FID needs .* pip install torch-fidelity, then restart"):
        fid.frechet_distance(*np.zeros((2, 2, 2048), np.float32))
