"""DoRA: a patch that gives rows (or columns) of the changed weight a length that was learned, arXiv 2402.09353."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy.weight_adapter.base import WeightAdapterBase


class DoraAdapter(WeightAdapterBase):
    """`m (W + D) / |W + D|`, with D of any other adapter, as PEFT (`tuners/lora/dora.py`) and LyCORIS compute it.

    ComfyUI's own adapters divide by |W| along outputs, and fail on a magnitude without a second dimension. Retire this
    when `comfy.weight_adapter.base.weight_decompose` does neither (ComfyUI pull requests 15458 and 13011).
    """

    name = "dora"

    def __init__(self, loaded_keys: set[str], weights: tuple[WeightAdapterBase, torch.Tensor, int]) -> None:
        """
        Args:
            loaded_keys: names of the tensors in the file.
            weights: the adapter that adds D; m; the dimension of W that m is along, 0 outputs or 1 inputs.
        """
        self.loaded_keys = loaded_keys
        self.weights = weights

    def calculate_weight(
        self,
        weight,
        key,
        strength,
        strength_model,
        offset,
        function,
        intermediate_dtype=torch.float32,
        original_weight=None,
    ):
        """The weight with `strength` of the way to the DoRA's added in place. Called by `comfy.lora`."""
        adapter, magnitude, axis = self.weights
        changed = weight.to(torch.float32, copy=True)  # A norm of thousands of values is not for bf16.
        changed = adapter.calculate_weight(
            changed, key, 1.0, 1.0, None, lambda diff: diff, torch.float32, original_weight
        )
        magnitude = comfy.model_management.cast_to_device(magnitude, weight.device, torch.float32)
        shape = [size if dim == axis else 1 for dim, size in enumerate(weight.shape)]
        others = [dim for dim in range(weight.ndim) if dim != axis]
        length = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
        changed *= magnitude.reshape(shape) / length.clamp_min(torch.finfo(torch.float32).eps)
        return weight.copy_(weight + function(strength * (changed - weight)))
