"""Nets with random weights that tell pictures apart."""

import torch
from PIL import Image
from torchvision import models, transforms


@torch.no_grad()
def randomise(net, seed):
    """Weights that keep activations near unit size, with norms, biases and statistics far from neutral."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in [*net.named_parameters(), *net.named_buffers()]:
        if not x.is_floating_point() or "rope" in name:
            continue
        x.normal_(generator=generator)
        if name.endswith("running_var"):
            x.abs_().add_(0.5)
        elif x.ndim == 1:
            x.mul_(0.3).add_(float(name.endswith("weight")))
        elif "embed" not in name and "token" not in name:
            x.mul_((1.5 / x[0].numel()) ** 0.5)
    return net.requires_grad_(False).eval()


@torch.no_grad()
def randomise_by_fan_in(net, gain, seed=0):
    """In eval mode, with weights that keep activations finite, and norms, slopes and statistics far from neutral."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in [*net.named_parameters(), *net.named_buffers()]:
        if not x.is_floating_point():
            continue
        x.normal_(generator=generator)
        if name.endswith("running_var"):
            x.abs_().add_(0.5)
        elif x.ndim == 1:
            x.mul_(0.3).add_(float(name.endswith("weight")))
        else:
            x.mul_((gain / x[0].numel()) ** 0.5)
    return net.requires_grad_(False).eval()


@torch.no_grad()
def random_inception(pictures, num_classes, **options):
    """Random weights whose features tell pictures apart: norms have the statistics of these pictures.

    Without that, what differs between two pictures fades from layer to layer.
    """
    net = randomise_by_fan_in(models.Inception3(num_classes=num_classes, init_weights=False, **options), gain=2)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1
    x = torch.stack([transforms.ToTensor()(Image.fromarray(picture).resize((299, 299))) for picture in pictures])
    net.train()(x if net.transform_input else 2 * x - 1)
    return net.state_dict()
