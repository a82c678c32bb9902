"""The two InceptionV3 nets of the FIDs: the paper's code measures by torchvision's, the true FID goes by
torch-fidelity's. They have different weights and features; never mix them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch

from ...checkpoint.fit import describe_weights, load_exactly
from ...errors import ConsisIDError, WeightsError

FEATURES = 2048
"""Length of the features: InceptionV3's last average pool."""

PAPER_KIND = "torchvision"
TRUE_KIND = "torch-fidelity"

_KINDS = {1000: PAPER_KIND, 1008: TRUE_KIND}  # by the number of classes: ImageNet's, and TensorFlow's of 2015
_PAPER_SIZE = 299


class Inception:
    """One of the two InceptionV3 nets, and the pictures as it takes them."""

    kind: str
    """PAPER_KIND, for `fid.paper_distance`, or TRUE_KIND, for `fid.frechet_distance`."""
    net: torch.nn.Module
    """The net itself, float32 and in eval mode, on any device."""

    def __init__(self, kind: str, net: torch.nn.Module) -> None:
        self.kind, self.net = kind, net

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, torch.Tensor]) -> Inception:
        """The net that these weights belong to.

        Args:
            state_dict: of torchvision's `inception_v3_google-0cc3c7bd.pth` or of torch-fidelity's
                `weights-inception-2015-12-05-6726825d.pth`.

        Raises:
            WeightsError: they are neither.
            ConsisIDError: they are torch-fidelity's, and its package does not import.
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

    def features(self, crop: np.ndarray) -> np.ndarray:
        """Features of one picture.

        Args:
            crop: uint8 [H, W, 3], RGB.

        Returns:
            float32 [2048].
        """
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
        raise ConsisIDError(
            "The Inception of torch-fidelity needs the Python package torch-fidelity, which does not import here "
            f"({error}): pip install torch-fidelity"
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
