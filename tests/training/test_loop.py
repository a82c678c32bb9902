"""One stage of training, against autograd through diffusers' net with the reference's loss."""

import dataclasses

import pytest
import torch
from consisid_pack.consisid_core.checkpoint.net_config import diffusers_config
from consisid_pack.consisid_core.training.cache import ClipCache
from consisid_pack.consisid_core.training.conditions import Examples, stacked
from consisid_pack.consisid_core.training.distributed import Ranks
from consisid_pack.consisid_core.training.loop import Trainer
from consisid_pack.consisid_core.training.net import build_net
from consisid_pack.consisid_core.training.stages import placed_stages
from diffusers import CogVideoXDPMScheduler, ConsisIDTransformer3DModel
from diffusers.training_utils import EMAModel
from helpers.oracle import RELATIVE, SCHEDULER, reference_rotary, relative_error
from helpers.training_runs import NET, small_config

CPU = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a cache and a net; each test writes its config there."""
    return tmp_path_factory.mktemp("loop")


def trainer_of(config, stage=0):
    return Trainer(config, placed_stages(config.stages)[stage], build_net(config), CPU)


def batches_of(config, trainer, step=0):
    examples = Examples(
        ClipCache(config.data.cache), trainer.net.transformer.config, trainer.placed.stage, config.conditions,
        config.loss.mask_probability, config.run.seed,
    )  # fmt: skip
    size, micro = config.batch.size, config.batch.micro
    return [
        stacked([examples[n] for n in range(start, start + micro)])
        for start in range(step * size, (step + 1) * size, micro)
    ]


def reference_net(net):
    """diffusers' transformer with these weights."""
    settings = {key: value for key, value in diffusers_config(net.config).items() if not key.startswith("_")}
    settings.pop("temporal_compression_ratio")
    reference = ConsisIDTransformer3DModel(**settings)
    reference.load_state_dict(net.state_dict())
    return reference


def reference_loss(reference, batch):
    """`train.py:1124-1211` on latents [B, T, C, H, W]."""
    scheduler = CogVideoXDPMScheduler(**SCHEDULER)
    latents, noise, image = (x.transpose(1, 2) for x in (batch.latents, batch.noise, batch.image_latents))
    noisy = scheduler.add_noise(latents, noise, batch.timestep)
    output = reference(
        hidden_states=torch.cat((noisy, image), dim=2), encoder_hidden_states=batch.text, timestep=batch.timestep,
        image_rotary_emb=reference_rotary(reference.config, latents.shape[1]), id_cond=batch.id_embedding,
        id_vit_hidden=list(batch.hidden_states.unbind(1)), return_dict=False,
    )[0]  # fmt: skip
    predicted = scheduler.get_velocity(output, noisy, batch.timestep)
    weights = 1 / (1 - scheduler.alphas_cumprod[batch.timestep].float())
    loss = (weights.view(-1, 1, 1, 1, 1) * (predicted - latents) ** 2).reshape(len(latents), -1)
    if (batch.mask == 1).all():
        return loss.mean(dim=1).mean()
    mask = batch.mask.unsqueeze(2).repeat(1, 1, latents.shape[2], 1, 1).reshape(len(latents), -1)
    return (loss * mask).sum() / mask.sum()


@pytest.mark.parametrize("checkpointing", ["false", "true"])
@pytest.mark.parametrize("alpha", ["0.0", "1.0"])
def test_gradients_are_those_of_the_reference(folder, checkpointing, alpha):
    # The reference's mask loss joins the clips of a batch, so one clip is compared.
    config = small_config(
        folder,
        f"[loss]\nmask_probability = {alpha}\n[memory]\ncheckpointing = {checkpointing}\n"
        "[conditions]\nidentity_dropout = 0\ntoken_dropout = 0\ntext_dropout = 0\nimage_dropout = 0\n",
        size=2 if alpha == "0.0" else 1,
    )
    reference = reference_net(build_net(config))
    trainer = trainer_of(config)
    batch = batches_of(config, trainer)[0]
    for timestep in (3, 500, 999):
        batch.timestep = torch.full_like(batch.timestep, timestep)
        theirs = reference_loss(reference, batch)
        theirs.backward()
        ours = trainer.losses(batch).mean()
        ours.backward()
        assert relative_error(ours, theirs) < RELATIVE
        named = dict(reference.named_parameters())
        # diffusers' position table is a buffer.
        assert named.keys() == trainer.learning.keys() - {"patch_embed.pos_embedding"}
        for name, parameter in named.items():
            assert relative_error(trainer.learning[name].grad, parameter.grad) < RELATIVE, (timestep, name)
        reference.zero_grad()
        trainer.net.zero_grad()


def test_accumulated_micro_batches_are_one_batch(folder):
    def gradients(micro):
        config = small_config(folder, size=4, micro=micro)
        trainer = trainer_of(config)
        kept = {}
        trainer.optimizer.step = lambda: kept.update({n: p.grad.clone() for n, p in trainer.learning.items()})
        report = trainer.step(batches_of(config, trainer), 200)
        return kept, report

    one, whole = gradients(4)
    other, parts = gradients(1)
    assert whole.loss == pytest.approx(parts.loss, rel=1e-6)
    assert torch.equal(whole.timesteps, parts.timesteps) and len(set(whole.timesteps.tolist())) == 4
    assert all(relative_error(other[name], one[name]) < RELATIVE for name in one)


def test_the_step_is_adamw_with_a_cut_gradient_and_rates_by_pattern(folder):
    train = {"fine": "steps = 4\nlearning_rate = 1e-2\n[stages.fine.train]\n'proj_out*' = 2.0\n'patch_embed.*' = 0.5"}
    config = small_config(folder, "[optimizer]\nwarmup = 0\nclip_norm = 0.01\nweight_decay = 0.1\n", stages=train)
    trainer = trainer_of(config)
    names = [
        "proj_out.weight",
        "proj_out.bias",
        *(name for name in trainer.learning if name.startswith("patch_embed.")),
    ]
    assert sorted(trainer.learning) == sorted(names)
    theirs = {name: parameter.detach().clone().requires_grad_() for name, parameter in trainer.learning.items()}
    groups = [
        {"params": [x for name, x in theirs.items() if name.startswith("proj_out")], "lr": 2e-2},
        {"params": [x for name, x in theirs.items() if name.startswith("patch_embed")], "lr": 5e-3},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    ema = EMAModel(theirs.values(), decay=config.optimizer.ema_decay)
    frozen = {n: p.detach().clone() for n, p in trainer.net.transformer.named_parameters() if n not in theirs}
    for step in range(3):
        batches = batches_of(config, trainer, step)
        sum(trainer.losses(batch).sum() / 4 for batch in batches).backward()
        for name, parameter in trainer.learning.items():
            theirs[name].grad, parameter.grad = parameter.grad, None
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), 0.01)
        for group, factor in zip(groups, (2, 0.5), strict=True):
            rate = {0: 1.0, 1: 0.5 + 0.5**1.5, 2: 0.5}[step]  # Half a cosine over four steps.
            group["lr"] = 1e-2 * factor * rate
        for group, given in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = given["lr"]
        optimizer.step()
        ema.step(theirs.values())
        report = trainer.step(batches, step)
        assert report.gradient_norm == pytest.approx(norm.item(), rel=1e-5) and report.gradient_norm > 0.01
        for name, average in zip(theirs, ema.shadow_params, strict=True):
            torch.testing.assert_close(trainer.learning[name], theirs[name], rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(trainer.averages[name], average, rtol=1e-5, atol=1e-7)
    assert (trainer.updates, trainer.averaged) == (3, 3)
    after = dict(trainer.net.transformer.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_without_numbers_changes_nothing(folder, where):
    config = small_config(folder)
    trainer = trainer_of(config)
    batches = batches_of(config, trainer)
    trainer.step(batches, 100)
    before = {name: tensor.clone() for name, tensor in trainer.state().items()}
    if where == "loss":
        batches[1].latents[0, 0, 0, 0, 0] = float("nan")
    else:
        trainer.learning["proj_out.bias"].register_hook(lambda gradient: gradient * float("inf"))
    report = trainer.step(batches, 101)
    assert not report.is_finite and torch.isfinite(torch.tensor(report.loss)) == (where == "gradient")
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.state().items())
    assert (trainer.updates, trainer.averaged) == (1, 1)


def test_dropped_identities_are_as_none_and_dropped_tokens_as_zeros(folder):
    trainer = trainer_of(small_config(folder))
    batch = batches_of(small_config(folder), trainer)[0]
    transformer = trainer.net.transformer
    latents = torch.cat((batch.latents, batch.image_latents), dim=1)
    face = (batch.id_embedding, batch.hidden_states)
    kept, whole = torch.ones_like(batch.kept_tokens), torch.tensor([1.0, 0.0])
    with torch.no_grad():
        given = trainer.net(latents, batch.timestep, batch.text, *face, kept, whole)
        tokens = transformer.local_facial_extractor(face[0], face[1].unbind(1))
        assert relative_error(given[:1], transformer(latents, batch.timestep, batch.text, tokens)[:1]) < RELATIVE
        assert relative_error(given[1:], transformer(latents, batch.timestep, batch.text)[1:]) < RELATIVE
        kept[:, 2:] = 0
        tokens[:, 2:] = 0
        given = trainer.net(latents, batch.timestep, batch.text, *face, kept, torch.ones(2))
        assert relative_error(given, transformer(latents, batch.timestep, batch.text, tokens)) < RELATIVE


def test_a_stage_without_identity_tokens_does_not_look_at_the_face(folder):
    stages = {"coarse": "steps = 1\nlearning_rate = 1e-2", "fine": "steps = 1"}
    config = small_config(folder, stages=stages)
    for stage, looks in ((0, False), (1, True)):
        trainer = trainer_of(config, stage)
        batch = batches_of(config, trainer)[0]
        other = dataclasses.replace(batch, id_embedding=batch.id_embedding + 1)
        assert torch.equal(trainer.losses(batch), trainer.losses(other)) != looks


@pytest.mark.parametrize("precision", ["mixed", "bfloat16"])
def test_half_precision_is_near_single(folder, precision):
    config = small_config(folder)
    trainer = trainer_of(config)
    batches = batches_of(config, trainer)
    single = trainer.step(batches, 50)
    half = trainer_of(small_config(folder, f'[memory]\nprecision = "{precision}"\n'))
    assert half.step(batches, 50).loss == pytest.approx(single.loss, rel=2e-2)
    dtypes = {parameter.dtype for parameter in half.learning.values()}
    assert dtypes == {torch.float32 if precision == "mixed" else torch.bfloat16}
    assert {average.dtype for average in half.averages.values()} == {torch.float32}


def test_averaged_weights_are_there_for_a_while(folder):
    config = small_config(folder)
    trainer = trainer_of(config)
    for step in range(2):
        trainer.step(batches_of(config, trainer, step), 50 + step)
    weights = {name: x.detach().clone() for name, x in trainer.trained.items()}
    with trainer.averaged_weights():
        assert all(torch.equal(x, trainer.averages[name]) for name, x in trainer.trained.items())
    assert all(torch.equal(x, weights[name]) for name, x in trainer.trained.items())
    assert not torch.equal(weights["proj_out.weight"], trainer.averages["proj_out.weight"])


def test_the_paper_s_place_of_injection_trains(folder):
    config = small_config(folder, net='injection = "between"\nkeypoints = true')
    trainer = trainer_of(config)
    report = trainer.step(batches_of(config, trainer), 50)
    assert report.is_finite and trainer.net.transformer.config == dataclasses.replace(
        NET, injection="between", keypoints=True
    )
