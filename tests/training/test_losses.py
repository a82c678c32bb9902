"""The loss against the reference's formula, and where it counts."""

import torch
from consisid_pack.consisid_core.training.diffusion import add_noise, velocity
from consisid_pack.consisid_core.training.losses import clip_losses
from diffusers import CogVideoXDPMScheduler
from helpers.oracle import SCHEDULER


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reference_loss(predicted, latents, noisy, timestep, mask=None):
    """`train.py:1197`; the mask is repeated over the channels, and one clip is a batch."""
    scheduler = CogVideoXDPMScheduler(**SCHEDULER)
    x0 = scheduler.get_velocity(predicted, noisy, timestep)
    weights = 1 / (1 - scheduler.alphas_cumprod[timestep].float())
    loss = (weights.view(-1, 1, 1, 1, 1) * (x0 - latents) ** 2).reshape(len(latents), -1)
    if mask is None:
        return loss.mean(dim=1).mean()
    mask = mask.unsqueeze(1).repeat(1, latents.shape[1], 1, 1, 1).reshape(len(latents), -1)
    return (loss * mask).sum() / mask.sum()


def test_equals_the_references_formula_at_every_noise():
    for t in (0, 1, 20, 500, 998, 999):
        latents, noise, predicted = (randn(1, 4, 3, 6, 5, seed=seed) for seed in range(3))
        mask = torch.rand(1, 3, 6, 5, generator=torch.Generator().manual_seed(3))
        timestep = torch.tensor([t])
        noisy = add_noise(latents, noise, timestep)
        predicted.requires_grad_()
        for given in (None, mask):
            ours = clip_losses(
                predicted, velocity(latents, noise, timestep), torch.ones_like(mask) if given is None else given
            ).mean()
            theirs = reference_loss(predicted, latents, noisy, timestep, given)
            # At timestep 0 the reference divides the difference of nearly equal numbers by 8.5e-4.
            torch.testing.assert_close(ours, theirs, rtol=1e-4 if t == 0 else 1e-5, atol=0)
            ours, theirs = (torch.autograd.grad(loss, predicted)[0] for loss in (ours, theirs))
            assert ((ours - theirs).norm() / theirs.norm()) < (1e-4 if t == 0 else 1e-5)


def test_nothing_is_learnt_outside_the_mask():
    predicted = randn(2, 4, 3, 6, 5).requires_grad_()
    mask = torch.zeros(2, 3, 6, 5)
    mask[:, :, 2:4, 1:3] = 1
    clip_losses(predicted, randn(2, 4, 3, 6, 5, seed=1), mask).sum().backward()
    inside = mask.bool().unsqueeze(1).expand_as(predicted)
    assert (predicted.grad[~inside] == 0).all()
    assert (predicted.grad[inside] != 0).all()


def test_each_clip_counts_the_same_however_large_its_face():
    predicted, true = torch.zeros(2, 1, 1, 4, 4), torch.ones(2, 1, 1, 4, 4)
    mask = torch.ones(2, 1, 4, 4)
    mask[1, :, 1:] = 0
    assert clip_losses(predicted, true, mask).tolist() == [1, 1]


def test_half_precision_predictions_are_compared_in_single():
    predicted = randn(1, 2, 2, 4, 4)
    half = predicted.bfloat16()
    loss = clip_losses(half, predicted, torch.ones(1, 2, 4, 4))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, (half.float() - predicted).square().mean().reshape(1))
