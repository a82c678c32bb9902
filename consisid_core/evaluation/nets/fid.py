"""Fréchet inception distances: the paper's, of single pictures, by torchvision's Inception, and the true one (arXiv
1706.08500), of sets of pictures, by torch-fidelity's. The two nets have different weights and features; never mix them.
"""

import io

import numpy as np
import torch

from ...checkpoint.fit import describe_weights, load_exactly
from ...errors import WeightsError

FEATURES = 2048
"""Length of the features: InceptionV3's last average pool."""

RELIABLE_SAMPLES = FEATURES
"""With fewer pictures in a set their covariance does not have full rank, and the true FID depends on their number."""

PAPER_KIND = "torchvision"
TRUE_KIND = "torch-fidelity"

_KINDS = {1000: PAPER_KIND, 1008: TRUE_KIND}  # by the number of classes: ImageNet's, and TensorFlow's of 2015
_PAPER_SIZE = 299


class Inception:
    """One of the two InceptionV3 nets, and the pictures as it takes them."""

    kind: str
    """PAPER_KIND, for `paper_distance`, or TRUE_KIND, for `frechet_distance`."""
    net: torch.nn.Module
    """The net itself, float32 and in eval mode, on any device."""

    def __init__(self, kind, net):
        self.kind, self.net = kind, net

    @classmethod
    def from_state_dict(cls, state_dict):
        """The net that these weights belong to: torchvision's `inception_v3_google-0cc3c7bd.pth` or torch-fidelity's
        `weights-inception-2015-12-05-6726825d.pth`.

        Raises WeightsError if they are neither, or if they are
        torch-fidelity's and its package does not import.
        """
        for name in ("Conv2d_1a_3x3.conv.weight", "fc.weight"):
            if name not in state_dict:
                raise WeightsError(
                    f"is not an InceptionV3: {name} is missing; it looks like {describe_weights(state_dict)}"
                )
        classes = len(state_dict["fc.weight"])
        if classes not in _KINDS:
            raise WeightsError(
                f"is an InceptionV3 of {classes} classes, neither torchvision's (1000) nor torch-fidelity's (1008)"
            )
        kind = _KINDS[classes]
        net = _paper_net(state_dict) if kind == PAPER_KIND else _fidelity_net(state_dict)
        return cls(kind, net.float().requires_grad_(False).eval())

    def features(self, crop):
        """Features of one picture: uint8 [H, W, 3], RGB -> float32 [2048]."""
        device = next(self.net.parameters()).device
        if self.kind == PAPER_KIND:
            return self.net(_paper_input(crop).to(device))[0].cpu().numpy()
        picture = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))).unsqueeze(0)
        return self.net(picture.to(device))[0][0].cpu().numpy()


def _paper_net(state_dict):
    net = _torchvision_net(state_dict, num_classes=1000, aux_logits=True)
    net.AuxLogits = None  # only training runs it
    net.fc = torch.nn.Identity()
    return net


def _torchvision_net(state_dict, **sizes):
    from torchvision.models.inception import Inception3

    with torch.device("meta"):
        # torchvision sets transform_input wherever it loads its weights: the net itself turns pictures in 0..1,
        # normalised by ImageNet's mean and deviation as it believes, into TensorFlow's -1..1.
        net = Inception3(transform_input=True, init_weights=False, **sizes)
    load_exactly(net, state_dict)
    return net


def _fidelity_net(state_dict):
    # Names and shapes are those of torchvision's net without the auxiliary head.
    weights = _torchvision_net(state_dict, num_classes=1008, aux_logits=False).state_dict()
    try:
        from torch_fidelity import FeatureExtractorInceptionV3
    except ImportError as error:
        raise WeightsError(
            f"needs the Python package torch-fidelity, which does not import here ({error}): pip install torch-fidelity"
        ) from None
    # The constructor unpickles whatever a file holds; it gets a copy of tensors that are known to be nothing else.
    file = io.BytesIO()
    torch.save(weights, file)
    file.seek(0)
    return FeatureExtractorInceptionV3("inception-v3-compat", [str(FEATURES)], feature_extractor_weights_path=file)


def _paper_input(crop):
    """Without ImageNet's normalisation, as the paper's code has it (ConsisID `eval/get_facesim_fid.py:23-27`)."""
    from PIL import Image
    from torchvision.transforms.functional import resize, to_tensor

    return to_tensor(resize(Image.fromarray(crop), [_PAPER_SIZE, _PAPER_SIZE])).unsqueeze(0)


def paper_distance(reference_features, frame_features):
    """What the paper's code calls FID: the squared L2 distance of two pictures' features, each [2048] of PAPER_KIND.

    The code repeats the one activation of the reference and that of the frame twice each, because a covariance needs
    two samples (ConsisID `eval/get_facesim_fid.py:30-66`). Both covariances are zero then, and of the Fréchet distance
    |mu1 - mu2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)) only the first term is left. Not comparable with any FID of sets.
    """
    difference = np.asarray(reference_features, np.float64) - np.asarray(frame_features, np.float64)
    return float(difference @ difference)


def frechet_distance(features_a, features_b):
    """The true FID of two sets of pictures, by torch-fidelity's own functions: equal to its `fidelity --fid`.

    features_a [N, 2048], features_b [M, 2048], of TRUE_KIND. Biased upwards below RELIABLE_SAMPLES pictures.
    Raises ConsisIDError below two pictures in either set, or if torch-fidelity does not import.
    """
    if min(len(features_a), len(features_b)) < 2:
        raise WeightsError(
            f"A true FID compares two sets of at least 2 pictures; here are {len(features_a)} and {len(features_b)}. "
            "Give more pictures or frames with a face."
        )
    try:
        from torch_fidelity import metric_fid
    except ImportError as error:
        raise WeightsError(
            f"A true FID needs the Python package torch-fidelity, which does not import here ({error}). Install it "
            "into ComfyUI's Python: pip install torch-fidelity, then restart ComfyUI."
        ) from None
    statistics = [
        metric_fid.fid_features_to_statistics(torch.from_numpy(np.asarray(features, np.float32)))
        for features in (features_a, features_b)
    ]
    return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]
