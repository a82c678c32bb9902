"""The plans of the paper's Table 3 written out plainly, with the parts of diffusers' net."""

import torch


def plain_forward(
    reference, plan, latents, text, timestep, image_rotary_emb=None, id_cond=None, id_vit_hidden=None, **kwargs
):
    """The velocity [B, T, C, H, W], as a tuple, of diffusers' net with its face attention moved to where a plan has it.

    plan: keys of INJECTION_PLANS' values; the rest of the arguments are those of diffusers' forward.
    """
    place = plan.get("injection", "block_output")
    if not plan.get("low_frequency", True):
        latents = latents.clone()
        latents[:, :, latents.shape[2] // 2 :] = 0
    tokens = reference.local_facial_extractor(id_cond, id_vit_hidden)
    interval, length = reference.config.cross_attn_interval, text.shape[1]

    temb = reference.time_embedding(reference.time_proj(timestep).to(latents.dtype))
    joined = reference.patch_embed(text, latents)
    words, image = joined[:, :length], joined[:, length:]
    for i, block in enumerate(reference.transformer_blocks):

        def found(here, x, i=i):
            """What the image tokens attend of the face at this place."""
            if here != place or i % interval or not plan.get("high_frequency", True):
                return torch.zeros_like(x)
            return reference.perceiver_cross_attention[i // interval](tokens, x)

        image = image + found("block_input", image)
        normed_image, normed_words, gate, words_gate = block.norm1(image, words, temb)
        normed_image = normed_image + found("before_attention", normed_image)
        attended_image, attended_words = block.attn1(normed_image, normed_words, image_rotary_emb=image_rotary_emb)
        image, words = image + gate * attended_image, words + words_gate * attended_words
        image = image + found("between", image)
        normed_image, normed_words, gate, words_gate = block.norm2(image, words, temb)
        inner = block.ff(torch.cat([normed_words, normed_image], dim=1))
        image, words = image + gate * inner[:, length:], words + words_gate * inner[:, :length]
        image = image + found("block_output", image)

    image = reference.norm_final(torch.cat([words, image], dim=1))[:, length:]
    patches = reference.proj_out(reference.norm_out(image, temb=temb))
    batch, frames, _, height, width = latents.shape
    p = reference.config.patch_size
    patches = patches.reshape(batch, frames, height // p, width // p, -1, p, p)
    return (patches.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4),)
