"""diffusers as the oracle: random reference nets, and the reference's sampling loop."""

import torch
from consisid_pack.consisid_core.checkpoint.net_config import infer_transformer_config
from consisid_pack.consisid_core.dev.tiny import VAE as TINY_VAE
from consisid_pack.consisid_core.model.transformer import ConsisIDTransformer
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXDPMScheduler, ConsisIDTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.consisid.pipeline_consisid import get_resize_crop_region_for_grid
from safetensors.torch import load_file

RELATIVE = 1e-5
"""What two implementations of one net may differ by in float32, relative to the norm."""


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


def build_reference(**overrides):
    """A diffusers transformer whose every parameter is random and of a size that matters."""
    settings = dict(
        in_channels=8, out_channels=4, time_embed_dim=12, text_embed_dim=16, sample_width=8, sample_height=8,
        sample_frames=9, max_text_seq_length=11, use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True, is_train_face=True, cross_attn_interval=2, cross_attn_dim_head=8,
        cross_attn_num_heads=3, LFE_id_dim=20, LFE_vit_dim=16, LFE_depth=5, LFE_dim_head=8, LFE_num_heads=2,
        LFE_num_id_token=3, LFE_num_querie=6, LFE_num_scale=5,
    )  # fmt: skip
    settings.update(overrides)
    hidden_dim = settings["num_attention_heads"] * settings["attention_head_dim"]
    settings["LFE_output_dim"] = int(hidden_dim / 3 * 2)
    torch.manual_seed(0)
    reference = ConsisIDTransformer3DModel(**settings).eval()
    randomize(reference)
    return reference


TRANSFORMERS = {
    "learned table, interval 2": dict(num_attention_heads=3, attention_head_dim=16, num_layers=4),
    "no table, interval 1": dict(
        num_attention_heads=6, attention_head_dim=16, num_layers=3, cross_attn_interval=1,
        use_learned_positional_embeddings=False, sample_width=10, sample_height=14, sample_frames=9,
    ),
    "interval 3, odd grid, no attention bias": dict(
        num_attention_heads=3, attention_head_dim=32, num_layers=6, cross_attn_interval=3, attention_bias=False,
        sample_width=14, sample_height=6, sample_frames=5, text_embed_dim=24,
    ),
}  # fmt: skip
"""Settings of `build_reference`, by what is peculiar to them."""


def build_ours(reference):
    """Our transformer with the weights of diffusers'."""
    state_dict = reference.state_dict()
    shapes = {name: tensor.shape for name, tensor in state_dict.items()}
    ours = ConsisIDTransformer(infer_transformer_config(shapes, dict(reference.config)))
    ours.load_state_dict(state_dict, strict=True)
    return ours.eval()


def random_inputs(reference):
    """Latents [B, T, C, H, W], text, timesteps, identity vector and EVA states."""
    config = reference.config
    generator = torch.Generator().manual_seed(2)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    frames = (config.sample_frames - 1) // 4 + 1
    latents = randn(2, frames, config.in_channels, config.sample_height, config.sample_width)
    text = randn(2, config.max_text_seq_length, config.text_embed_dim)
    id_cond = randn(1, config.LFE_id_dim)
    hidden = [randn(1, 9, config.LFE_vit_dim) for _ in range(5)]
    return latents, text, torch.tensor([977.0, 400.0]), id_cond, hidden


def build_reference_vae(models_dir):
    """diffusers' VAE with the weights of the tiny set."""
    net = AutoencoderKLCogVideoX(**{k: v for k, v in TINY_VAE.items() if not k.startswith("_")})
    net.load_state_dict(load_file(models_dir / "vae/consisid_demo/diffusion_pytorch_model.safetensors"))
    return net.eval()


def randomize(module, seed=1):
    """Norms around 1, everything else large enough that no branch vanishes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            noise = torch.randn(tensor.shape, generator=generator)
            if "norm" in name and name.endswith("weight") and "linear" not in name:
                tensor.copy_(1 + 0.3 * noise)
            elif tensor.ndim >= 2 and "pos_embedding" not in name:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_(0.5 * noise)


def reference_rotary(config, frames):
    grid = (config.sample_height // 2, config.sample_width // 2)
    crops = get_resize_crop_region_for_grid(grid, grid[1], grid[0])
    return get_3d_rotary_pos_embed(config.attention_head_dim, crops, grid, frames)


SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
    rescale_betas_zero_snr=True, snr_shift_scale=1.0, timestep_spacing="trailing", set_alpha_to_one=True,
    clip_sample=False,
)  # fmt: skip


@torch.inference_mode()
def reference_loop(
    transformer, noise, image_latents, positive, negative, steps, cfg=6.0, id_cond=None, id_vit_hidden=None,
    dpm_noise=None, guidance=None, predict=None,
):  # fmt: skip
    """The denoising loop of `pipeline_consisid.py:880-955` on scaled latents [B, T, C, H, W].

    dpm_noise: draws the noise of each step of CogVideoXDPMScheduler; without it the loop is CogVideoXDDIMScheduler's.
    guidance: guidance scale of each step, cfg if not given. predict: called in place of the transformer.
    """
    scheduler = (CogVideoXDDIMScheduler if dpm_noise is None else CogVideoXDPMScheduler)(**SCHEDULER)
    scheduler.set_timesteps(steps)
    rotary = reference_rotary(transformer.config, noise.shape[1])
    latents, previous = noise, None
    text = torch.cat([negative, positive]) if cfg > 1 else positive
    for i, t in enumerate(scheduler.timesteps):
        model_input = torch.cat([latents, image_latents.expand_as(latents)], dim=2)
        model_input = torch.cat([model_input] * (len(text) // len(latents)))
        velocity = (predict or transformer)(
            model_input, text, t.expand(len(model_input)), image_rotary_emb=rotary,
            id_cond=id_cond, id_vit_hidden=id_vit_hidden, return_dict=False,
        )[0]  # fmt: skip
        if cfg > 1:
            unconditional, conditional = velocity.chunk(2)
            velocity = unconditional + (guidance[i] if guidance else cfg) * (conditional - unconditional)
        if dpm_noise is None:
            latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
        else:
            back = scheduler.timesteps[i - 1] if i > 0 else None
            latents, previous = pinned_dpm_step(scheduler, velocity, previous, t, back, latents, dpm_noise())
    return latents


def pinned_dpm_step(scheduler, velocity, previous, timestep, back, latents, noise):
    """`CogVideoXDPMScheduler.step` with every draw of noise inside replaced by the one given."""
    import diffusers.schedulers.scheduling_dpm_cogvideox as module

    original = module.randn_tensor
    module.randn_tensor = lambda *args, **kwargs: noise
    try:
        return scheduler.step(velocity, previous, timestep, back, latents, return_dict=False)
    finally:
        module.randn_tensor = original
