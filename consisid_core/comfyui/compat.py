"""What differs between ComfyUI versions. Each shim names the version that retires it."""

import comfy.model_patcher


def core_model_patcher():
    """The patcher class for models made of comfy.ops layers: streams weights where ComfyUI can (0.12 and newer)."""
    return getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)


def is_dynamic(patcher):
    """Whether the patcher maps weights from the file instead of copying them (0.12 and newer)."""
    return hasattr(patcher, "is_dynamic") and patcher.is_dynamic()


def load_weights(net, state_dict, patcher):
    """Strictly load weights: mapped where the patcher streams them, else copied into the net's dtype."""
    if is_dynamic(patcher):
        net.load_state_dict(state_dict, strict=True, assign=True)
    else:
        net.load_state_dict(state_dict, strict=True)
