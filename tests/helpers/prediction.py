"""One prediction of a loaded transformer."""

import comfy.model_management
import torch


@torch.inference_mode()
def predict(patcher, inputs, load=True):
    """One denoised prediction through the BaseModel, as a sampler asks for it."""
    if load:
        comfy.model_management.load_models_gpu([patcher])
    x, image, text, tokens = inputs
    device = patcher.load_device
    sigma = patcher.model.model_sampling.sigmas[500:501].to(device)
    return patcher.model.apply_model(
        (x * (1 + sigma**2) ** 0.5).to(device), sigma, c_concat=image.to(device), c_crossattn=text.to(device),
        identity_tokens=tokens.to(device), identity_scale=1.0, identity_sigmas=(1e9, 0.0),
    ).cpu()  # fmt: skip
