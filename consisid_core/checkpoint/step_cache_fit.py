"""The file beside a transformer's weights that says how far its steps may be skipped; see `model.step_cache`."""

from __future__ import annotations

import json
import math
from pathlib import Path

from ..errors import ConsisIDError, in_short
from ..model.step_cache import StepCacheFit

_NAME = "step_cache.json"


def fit_path(weights: Path | str) -> Path:
    """Where the fit of a transformer lies: in its folder of shards, or beside its file under the file's name.

    >>> fit_path("mine.safetensors").name
    'mine.step_cache.json'
    """
    weights = Path(weights)
    return weights / _NAME if weights.is_dir() else weights.with_name(f"{weights.stem}.{_NAME}")


def read_fit(weights: Path | str) -> StepCacheFit | None:
    """The fit of a transformer, or None if there is no file of it.

    Raises:
        ConsisIDError: naming the file that is damaged.
    """
    path = fit_path(weights)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        coefficients = tuple(map(float, content["coefficients"]))
        fit = StepCacheFit(coefficients, float(content["lowest"]), float(content["highest"]))
        if not 0 < fit.lowest < fit.highest or not coefficients or not all(map(math.isfinite, coefficients)):
            raise ValueError("its numbers make no sense")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConsisIDError(
            f"{path} cannot be read ({in_short(error)}). Remove it, or fit again: python -m consisid_core.training "
            "fit_step_cache"
        ) from None
    return fit
