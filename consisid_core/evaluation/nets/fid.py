"""Fréchet inception distances of features: the paper's, of single pictures, and the true one (arXiv 1706.08500), of
sets of pictures. Each goes by an `Inception` of its own kind.
"""

import numpy as np
import torch

from ...errors import ConsisIDError
from .inception import FEATURES

RELIABLE_SAMPLES = FEATURES
"""With fewer pictures in a set their covariance does not have full rank, and the true FID depends on their number."""


def paper_distance(reference_features: np.ndarray, frame_features: np.ndarray) -> float:
    """What the paper's code calls FID: the squared L2 distance of two pictures' features.

    The code repeats the one activation of the reference and that of the frame twice each, because a covariance needs
    two samples (ConsisID `eval/get_facesim_fid.py:30-66`). Both covariances are zero then, and of the Fréchet distance
    |mu1 - mu2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)) only the first term is left. Not comparable with any FID of sets.

    Args:
        reference_features: [2048] of PAPER_KIND.
        frame_features: [2048] of PAPER_KIND.
    """
    difference = np.asarray(reference_features, np.float64) - np.asarray(frame_features, np.float64)
    return float(difference @ difference)


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """The true FID of two sets of pictures, by torch-fidelity's own functions: equal to its `fidelity --fid`.

    Biased upwards below RELIABLE_SAMPLES pictures.

    Args:
        features_a: [N, 2048] of TRUE_KIND.
        features_b: [M, 2048] of TRUE_KIND.

    Raises:
        ConsisIDError: fewer than two pictures in either set, or torch-fidelity does not import.
    """
    if min(len(features_a), len(features_b)) < 2:
        raise ConsisIDError(
            f"A true FID compares two sets of at least 2 pictures; here are {len(features_a)} and {len(features_b)}. "
            "Give more pictures or frames with a face."
        )
    try:
        from torch_fidelity import metric_fid
    except ImportError as error:
        raise ConsisIDError(
            f"A true FID needs the Python package torch-fidelity, which does not import here ({error}). Install it "
            "into ComfyUI's Python: pip install torch-fidelity, then restart ComfyUI."
        ) from None
    both = np.concatenate([features_a, features_b]).astype(np.float64)
    if len(both) < FEATURES:
        # The same points on axes of the space that they span: no distance changes, and the covariances are as small.
        both = np.linalg.qr(both.T, mode="r").T
    statistics = [
        metric_fid.fid_features_to_statistics(torch.from_numpy(features))
        for features in np.split(both, [len(features_a)])
    ]
    return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]
