"""The nets against diffusers' on random weights, and the shape inference that loads them."""

import torch
from helpers.oracle import (
    RELATIVE,
    TRANSFORMERS,
    build_ours,
    build_reference,
    random_inputs,
    reference_rotary,
    relative_error,
)


@torch.inference_mode()
def test_forward_equals_diffusers(pair):
    reference, ours = pair
    latents, text, timestep, id_cond, hidden = random_inputs(reference)
    expected = reference(
        latents, text, timestep, image_rotary_emb=reference_rotary(reference.config, latents.shape[1]),
        id_cond=id_cond, id_vit_hidden=hidden,
    ).sample  # fmt: skip
    tokens = ours.local_facial_extractor(id_cond, hidden).expand(2, -1, -1)
    actual = ours(latents.transpose(1, 2), timestep, text, tokens).transpose(1, 2)
    assert relative_error(actual, expected) <= RELATIVE

    faceless = ours(latents.transpose(1, 2), timestep, text).transpose(1, 2)
    assert relative_error(faceless, expected) > 1e-2, "the face must matter for this test to mean anything"
    reference.local_face_scale = 0.4
    expected = reference(
        latents, text, timestep, image_rotary_emb=reference_rotary(reference.config, latents.shape[1]),
        id_cond=id_cond, id_vit_hidden=hidden,
    ).sample  # fmt: skip
    actual = ours(latents.transpose(1, 2), timestep, text, tokens, identity_scale=0.4).transpose(1, 2)
    assert relative_error(actual, expected) <= RELATIVE


@torch.inference_mode()
def test_block_patches_and_attention_override_apply():
    reference = build_reference(**TRANSFORMERS["learned table, interval 2"])
    ours = build_ours(reference)
    latents, text, timestep, id_cond, hidden = random_inputs(reference)
    inputs = (latents.transpose(1, 2), timestep, text, ours.local_facial_extractor(id_cond, hidden))
    plain = ours(*inputs)
    seen = []

    def passes_through(args, extra):
        seen.append(args["transformer_options"]["block_index"])
        return extra["original_block"](args)

    def skips(args, extra):
        return args

    options = {"patches_replace": {"dit": {("double_block", i): passes_through for i in range(4)}}}
    torch.testing.assert_close(ours(*inputs, transformer_options=options), plain, rtol=0, atol=0)
    assert seen == [0, 1, 2, 3]
    options["patches_replace"]["dit"][("double_block", 2)] = skips
    assert relative_error(ours(*inputs, transformer_options=options), plain) > 1e-2


@torch.inference_mode()
def test_what_block_patches_keep_and_callers_pass_is_never_overwritten():
    reference = build_reference(**TRANSFORMERS["learned table, interval 2"])
    ours = build_ours(reference)
    latents, text, timestep, id_cond, hidden = random_inputs(reference)
    inputs = [latents.transpose(1, 2), timestep, text, ours.local_facial_extractor(id_cond, hidden)]
    before = [tensor.clone() for tensor in inputs]
    kept = []

    def keeps(args, extra):
        kept.extend((tensor, tensor.clone()) for tensor in (args["img"], args["txt"], args["vec"]))
        out = extra["original_block"](args)
        kept.extend((tensor, tensor.clone()) for tensor in out.values())
        return out

    options = {"patches_replace": {"dit": {("double_block", i): keeps for i in (0, 1, 3)}}}
    ours(*inputs, transformer_options=options)
    assert len(kept) == 15
    for tensor, copy in [*kept, *zip(inputs, before, strict=True)]:
        assert torch.equal(tensor, copy)


def test_gradients_equal_diffusers(pair):
    reference, ours = pair
    latents, text, timestep, id_cond, hidden = random_inputs(reference)
    expected = reference(
        latents.requires_grad_(), text, timestep, id_cond=id_cond, id_vit_hidden=hidden,
        image_rotary_emb=reference_rotary(reference.config, latents.shape[1]),
    ).sample  # fmt: skip
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    mine = latents.detach().transpose(1, 2).requires_grad_()
    tokens = ours.local_facial_extractor(id_cond, hidden).expand(2, -1, -1)
    (ours(mine, timestep, text, tokens).transpose(1, 2) * weight).sum().backward()
    assert relative_error(mine.grad.transpose(1, 2), latents.grad) <= RELATIVE
    theirs = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        if name in theirs:  # The learned position table is a buffer there.
            # Ten times the bound, for sums over all tokens whose terms cancel.
            assert relative_error(parameter.grad, theirs[name].grad) <= 10 * RELATIVE, name


@torch.inference_mode()
def test_other_sizes_reuse_the_learned_table():
    reference = build_reference(**TRANSFORMERS["learned table, interval 2"])
    ours = build_ours(reference)
    latents, text, timestep, *_ = random_inputs(reference)
    embed = ours.patch_embed
    _, full = embed(text, latents.transpose(1, 2))
    _, first = embed(text, latents.transpose(1, 2)[:, :, :1])
    torch.testing.assert_close(first, full[:, : first.shape[1]], rtol=1e-5, atol=1e-5)
    table = embed.pos_embedding[:, ours.config.max_text_length :]
    resampled = embed._image_positions(table, (3, 7, 7))
    corner = table.unflatten(1, ours.config.base_grid)[:, -1, -1, -1]
    torch.testing.assert_close(resampled[:, -1], corner)
    larger = torch.randn(1, 8, 5, 13, 9)
    assert ours(larger, timestep[:1], text[:1]).shape == (1, 4, 5, 13, 9)
