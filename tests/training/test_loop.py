"""One stage of training."""

import torch
from consisid_pack.consisid_core.training.cache import ClipCache
from consisid_pack.consisid_core.training.conditions import Examples, stacked
from consisid_pack.consisid_core.training.distributed import Ranks
from consisid_pack.consisid_core.training.loop import Trainer
from consisid_pack.consisid_core.training.net import build_net
from consisid_pack.consisid_core.training.stages import placed_stages
from helpers.training_runs import small_config

CPU = Ranks(0, 1, torch.device("cpu"))


def trainer_of(config, stage=0):
    return Trainer(config, placed_stages(config.stages)[stage], build_net(config), CPU)


def batches_of(config, trainer, step=0):
    examples = Examples(
        ClipCache(config.data.cache), trainer.net.transformer.config, trainer.placed.stage, config.conditions,
        config.loss.mask_probability, config.run.seed,
    )  # fmt: skip
    size, micro = config.batch.size, config.batch.micro
    for start in range(step * size, (step + 1) * size, micro):
        yield stacked([examples[n] for n in range(start, start + micro)])


def test_step_runs(tmp_path):
    config = small_config(tmp_path)
    trainer = trainer_of(config)
    report = trainer.step(batches_of(config, trainer), 0)
    print(report)
    assert report.is_finite
