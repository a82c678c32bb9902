"""The nets against diffusers' on random weights, and the shape inference that loads them."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from consisid_pack.consisid_core.model.attention import scaled_dot_product_attention
from consisid_pack.consisid_core.model.config import INJECTION_PLANS, INJECTIONS
from consisid_pack.consisid_core.model.transformer import BLOCKS_WRAPPER, ConsisIDTransformer
from helpers.injection import plain_forward
from helpers.oracle import (
    RELATIVE,
    TRANSFORMERS,
    build_ours,
    build_reference,
    random_inputs,
    reference_rotary,
    relative_error,
)
from torch.utils._python_dispatch import TorchDispatchMode


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


@torch.inference_mode()
def test_wrappers_around_the_block_loop_see_its_inputs_and_nest_in_order():
    reference = build_reference(**TRANSFORMERS["learned table, interval 2"])
    ours = build_ours(reference)
    latents, text, timestep, id_cond, hidden = random_inputs(reference)
    tokens = ours.local_facial_extractor(id_cond, hidden)
    calls = []

    def passes_through(name):
        def wrapper(run_blocks, inputs):
            calls.append((name, inputs, inputs.hidden.clone()))
            return run_blocks(inputs)

        return wrapper

    def skips(run_blocks, inputs):
        return inputs.hidden

    def run(*wrappers, tokens=tokens):
        options = {"mine": 1, "wrappers": {BLOCKS_WRAPPER: {i: [wrapper] for i, wrapper in enumerate(wrappers)}}}
        return ours(latents.transpose(1, 2), timestep, text, tokens, 0.7, options)

    plain = run()
    assert torch.equal(run(passes_through("outer"), passes_through("inner")), plain)
    assert [name for name, *_ in calls] == ["outer", "inner"]
    _, inputs, before = calls[0]
    length = text.shape[1]
    assert torch.equal(before, torch.cat(ours.patch_embed(text, latents.transpose(1, 2)), dim=1))
    assert inputs.text_length == length and len(inputs.rotary) == before.shape[1] - length
    assert inputs.temb.shape == (2, ours.config.time_embed_dim)
    assert inputs.identity_tokens is tokens and inputs.identity_scale == 0.7 and inputs.transformer_options["mine"] == 1
    assert relative_error(run(skips, passes_through("unreached")), plain) > 1e-2
    assert len(calls) == 2
    run(passes_through("faceless"), tokens=None)
    assert calls[-1][1].identity_tokens is None


@torch.inference_mode()
@pytest.mark.parametrize("lengths", [(21, 20, 18), (5, 40, 14)], ids=["text in the first", "text in two"])
def test_a_wrapper_can_spread_the_sequence_over_ranks(lengths):
    """Threads for ranks: each runs the blocks on its run of tokens, and joint attention alone sees the others'."""
    reference = build_reference(**TRANSFORMERS["learned table, interval 2"])
    latents, text, timestep, id_cond, hidden = random_inputs(reference)
    barrier, exchanged, local_calls = threading.Barrier(len(lengths)), {}, []

    def attention(q, k, v, heads, transformer_options, **kwargs):
        rank = transformer_options.get("rank")
        if rank is not None and transformer_options.get("identity_attention"):
            local_calls.append(rank)
        elif rank is not None:
            exchanged[rank] = k, v
            barrier.wait(60)
            k, v = (torch.cat([exchanged[i][j] for i in range(len(lengths))], dim=2) for j in range(2))
            barrier.wait(60)
        return scaled_dot_product_attention(q, k, v, heads)

    whole = build_ours(reference)
    ours = ConsisIDTransformer(whole.config, attention=attention)
    ours.load_state_dict(whole.state_dict())
    inputs = (latents.transpose(1, 2), timestep, text, ours.local_facial_extractor(id_cond, hidden))

    def sharded(run_blocks, inputs):
        def run(rank, start, end):
            text_length = inputs.text_length
            shard = dataclasses.replace(
                inputs,
                hidden=inputs.hidden[:, start:end].clone(),
                text_length=max(min(text_length, end) - start, 0),
                rotary=inputs.rotary[max(start - text_length, 0) : max(end - text_length, 0)],
                transformer_options={**inputs.transformer_options, "rank": rank},
            )
            with torch.inference_mode():
                return run_blocks(shard)

        assert sum(lengths) == inputs.hidden.shape[1]
        ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
        starts = [end - length for end, length in zip(ends, lengths, strict=True)]
        with ThreadPoolExecutor(len(lengths)) as pool:
            return torch.cat(list(pool.map(run, range(len(lengths)), starts, ends)), dim=1)

    options = {"wrappers": {BLOCKS_WRAPPER: {"ranks": [sharded]}}}
    assert relative_error(ours(*inputs, transformer_options=options), ours(*inputs)) <= RELATIVE
    assert sorted(local_calls) == [0, 0, 1, 1, 2, 2]


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


# ---- the plans of the paper's Table 3 --------------------------------------------------------------------------------

RELEASED = {"released": {}}


def with_plan(ours, plan):
    """The same weights under another plan."""
    net = ConsisIDTransformer(dataclasses.replace(ours.config, **plan))
    net.load_state_dict(ours.state_dict())
    return net.eval()


@pytest.mark.parametrize("plan", (INJECTION_PLANS | RELEASED).values(), ids=INJECTION_PLANS | RELEASED)
def test_every_plan_equals_its_plain_form_forward_and_backward(pair, plan):
    reference, ours = pair
    ours = with_plan(ours, plan)
    latents, text, timestep, id_cond, hidden = random_inputs(reference)
    rotary = reference_rotary(reference.config, latents.shape[1])
    (expected,) = plain_forward(reference, plan, latents.requires_grad_(), text, timestep, rotary, id_cond, hidden)
    if not plan:
        diffusers_own = reference(
            latents, text, timestep, image_rotary_emb=rotary, id_cond=id_cond, id_vit_hidden=hidden
        ).sample
        assert relative_error(expected, diffusers_own) <= RELATIVE
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    mine = latents.detach().transpose(1, 2).requires_grad_()
    tokens = ours.local_facial_extractor(id_cond, hidden).expand(2, -1, -1)
    actual = ours(mine, timestep, text, tokens).transpose(1, 2)
    assert relative_error(actual, expected) <= RELATIVE
    with torch.inference_mode():  # Where sums are done in place.
        in_place = ours(mine, timestep, text, tokens).transpose(1, 2)
    assert relative_error(in_place, expected) <= RELATIVE
    (actual * weight).sum().backward()
    assert relative_error(mine.grad.transpose(1, 2), latents.grad) <= RELATIVE
    theirs = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        gradient = theirs[name].grad if name in theirs else None  # The learned position table is a buffer there.
        if parameter.grad is None:
            assert gradient is None or not gradient.any(), name
        elif gradient is not None:
            assert relative_error(parameter.grad, gradient) <= 10 * RELATIVE, name


@torch.inference_mode()
def test_every_place_is_another_net():
    ours = build_ours(build_reference(**TRANSFORMERS["learned table, interval 2"]))
    latents, text, timestep, id_cond, hidden = random_inputs(
        build_reference(**TRANSFORMERS["learned table, interval 2"])
    )
    tokens = ours.local_facial_extractor(id_cond, hidden)
    outputs = [
        with_plan(ours, {"injection": place})(latents.transpose(1, 2), timestep, text, tokens) for place in INJECTIONS
    ]
    for i, one in enumerate(outputs):
        assert all(relative_error(one, another) > 1e-2 for another in outputs[:i])


@pytest.mark.parametrize("place", INJECTIONS)
def test_block_patches_of_every_place(place):
    reference = build_reference(**TRANSFORMERS["learned table, interval 2"])
    ours = with_plan(build_ours(reference), {"injection": place})
    latents, text, timestep, id_cond, hidden = random_inputs(reference)
    inputs = (latents.transpose(1, 2), timestep, text, ours.local_facial_extractor(id_cond, hidden))
    seen = []

    def passes_through(args, extra):
        seen.append((args["img"], args["img"].clone()))
        out = extra["original_block"](args)
        seen.extend((tensor, tensor.clone()) for tensor in out.values())
        return out

    options = {"patches_replace": {"dit": {("double_block", i): passes_through for i in range(4)}}}
    with torch.inference_mode():
        plain = ours(*inputs)
        torch.testing.assert_close(ours(*inputs, transformer_options=options), plain, rtol=0, atol=0)
    assert len(seen) == 12 and all(torch.equal(tensor, copy) for tensor, copy in seen)


@pytest.mark.parametrize("place", INJECTIONS)
def test_blocks_can_be_checkpointed(place):
    """Each block on its own, as training does to save memory; the identity reaches a block through its arguments."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper

    reference = build_reference(**TRANSFORMERS["learned table, interval 2"])
    ours = with_plan(build_ours(reference), {"injection": place})
    latents, text, timestep, id_cond, hidden = random_inputs(reference)

    def gradients():
        ours.zero_grad()
        tokens = ours.local_facial_extractor(id_cond, hidden).expand(2, -1, -1)
        ours(latents.transpose(1, 2), timestep, text, tokens).square().sum().backward()
        return {
            name.replace("_checkpoint_wrapped_module.", ""): parameter.grad.clone()
            for name, parameter in ours.named_parameters()
        }

    plain = gradients()
    for i, block in enumerate(ours.transformer_blocks):
        ours.transformer_blocks[i] = checkpoint_wrapper(block, checkpoint_impl=CheckpointImpl.NO_REENTRANT)
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], rtol=0, atol=0)


@torch.inference_mode()
def test_a_forward_never_waits_for_the_device():
    """A value that the processor reads of a tensor would stop it until the accelerator has computed it."""
    net = build_ours(build_reference(**TRANSFORMERS["learned table, interval 2"]))
    config, read = net.config, []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            read.append(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    inputs = (
        torch.randn(2, config.in_channels, 3, 8, 14),
        torch.tensor([500, 20]),
        torch.randn(2, config.max_text_length, config.text_embed_dim),
        torch.randn(2, 32, config.facial_extractor.output_dim),
    )
    with Reads():
        net(*inputs, identity_scale=torch.tensor([1.0, 0.5]))
    aten = torch.ops.aten
    assert {aten.linear, aten.addmm, aten.mm} & set(read)
    assert not {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.is_nonzero} & set(read)
