"""Which hardware onnxruntime runs the face pack on."""

from __future__ import annotations

from ..errors import ConsisIDError

# Name -> (onnxruntime's ids, newest first; where they come from). "auto" takes the first that is there.
_PROVIDERS = {
    "CUDA": (("CUDAExecutionProvider",), "onnxruntime-gpu"),
    "ROCm": (("MIGraphXExecutionProvider", "ROCMExecutionProvider"), "onnxruntime-migraphx"),
    "CoreML": (("CoreMLExecutionProvider",), "onnxruntime for macOS"),
    "DirectML": (("DmlExecutionProvider",), "onnxruntime-directml"),
    "OpenVINO": (("OpenVINOExecutionProvider",), "onnxruntime-openvino"),
    "CPU": (("CPUExecutionProvider",), "onnxruntime"),
}

PROVIDER_CHOICES = ("auto", "CPU", "CUDA", "ROCm", "CoreML", "DirectML", "OpenVINO")
"""What `resolve_providers` takes."""


def resolve_providers(choice: str) -> list[str]:
    """Translates a provider name into the list that onnxruntime takes.

    Args:
        choice: one of `PROVIDER_CHOICES`; "auto" takes the best that this onnxruntime offers.

    Returns:
        Provider ids, the chosen one first, the CPU last as the fallback.

    Raises:
        ConsisIDError: onnxruntime is not installed or was built without the choice.
    """
    try:
        import onnxruntime

        installed = onnxruntime.get_available_providers()
    except (ImportError, AttributeError) as error:  # an uninstalled sibling package leaves an empty module behind
        raise ConsisIDError(
            f"Face analysis needs onnxruntime, which does not work in this Python ({error}): pip install onnxruntime"
        ) from None
    offered = {
        name: next(provider for provider in ids if provider in installed)
        for name, (ids, _) in _PROVIDERS.items()
        if any(provider in installed for provider in ids)
    }
    if choice == "auto":
        choice = next(iter(offered))
    if choice not in offered:
        cure = f", or replace it by {_PROVIDERS[choice][1]}" if choice in _PROVIDERS else ""
        raise ConsisIDError(
            f"The installed onnxruntime cannot run on {choice}. It offers: {', '.join(offered)}. "
            f"Choose one of these or auto{cure}."
        )
    return list(dict.fromkeys([offered[choice], "CPUExecutionProvider"]))
