"""A stage of training in this process: its step, and its state as tensors by name."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from ..model.transformer import ConsisIDTransformer
from .conditions import Example
from .config import TrainingConfig
from .diffusion import add_noise, velocity
from .distributed import Ranks, accumulating, spread
from .losses import clip_losses
from .net import Denoiser, clean_name, factor, learning_names, set_formats, trained_names
from .stages import PlacedStage, rate_factor


@dataclass(frozen=True, eq=False)
class StepReport:
    """What a step found; tensors are this process's, on the CPU."""

    step: int
    """Steps done, this one included."""
    stage: str
    loss: float
    """Mean over the clips of all processes."""
    gradient_norm: float
    """Before it was cut."""
    is_finite: bool
    """Whether both are. If not, the step changed nothing."""
    losses: torch.Tensor
    """float32 [B] of each clip."""
    timesteps: torch.Tensor
    """int64 [B]"""
    drawn: torch.Tensor
    """float32 [B, 6], see `conditions.DRAWS`."""
    stop_asked: bool
    """Whether any process was asked to stop."""


class Trainer:
    """Net, optimiser and averaged weights of one stage."""

    def __init__(self, config: TrainingConfig, placed: PlacedStage, net: ConsisIDTransformer, ranks: Ranks) -> None:
        """
        Args:
            net: of `build_net`; it is taken apart.

        Raises:
            ConsisIDError: the stage trains nothing, or batches do not divide among the processes.
        """
        self.config, self.placed, self.ranks = config, placed, ranks
        self.transformer_config = net.config
        self.accumulation = ranks.accumulation(config.batch)
        trained = trained_names(net, config.stages)
        learning = set(learning_names(net, placed.stage))
        self.net = spread(
            Denoiser(net), config.memory, ranks,
            functools.partial(set_formats, trained=set(trained), learning=learning, memory=config.memory),
        )  # fmt: skip
        parameters = {clean_name(name): parameter for name, parameter in self.net.named_parameters()}
        self.trained = {name: parameters[name] for name in trained}
        self.learning = {name: self.trained[name] for name in trained if name in learning}
        self.averages = (
            {name: parameter.detach().float().clone() for name, parameter in self.trained.items()}
            if config.optimizer.ema_decay
            else {}
        )
        self.optimizer = self._optimizer()
        self.averaged = 0
        """Updates of the averaged weights, in all stages."""

    def step(self, batches: Iterable[Example], step: int, stop_asked: bool = False) -> StepReport:
        """One step of the optimiser.

        Args:
            batches: the micro-batches of this process: `accumulation` of them.
            step: steps of the run that were done before.
            stop_asked: whether this process was asked to stop.
        """
        for group, rate in zip(self.optimizer.param_groups, self._rates(step), strict=True):
            group["lr"] = rate
        losses, timesteps, drawn = [], [], []
        own_clips = self.config.batch.size // self.ranks.count
        for number, batch in enumerate(batches, start=1):
            batch = batch.to(self.ranks.device)
            with accumulating(self.net, is_last=number == self.accumulation):
                of_clips = self.losses(batch)
                (of_clips.sum() / own_clips).backward()
            losses.append(of_clips.detach())
            timesteps.append(batch.timestep)
            drawn.append(batch.drawn)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.learning.values() if p.grad is not None])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        losses = torch.cat(losses)
        total, stops = self.ranks.sum(losses.sum().item(), float(stop_asked))
        loss, gradient_norm = total / self.config.batch.size, norm.item()
        is_finite = all(map(_is_finite, (loss, gradient_norm)))
        if is_finite:
            torch.nn.utils.clip_grads_with_norm_(self.learning.values(), self.config.optimizer.clip_norm, norm)
            self.optimizer.step()
            self._average()
        self.optimizer.zero_grad(set_to_none=True)
        return StepReport(
            step + 1, self.placed.name, loss, gradient_norm, is_finite, losses.cpu(), torch.cat(timesteps).cpu(),
            torch.cat(drawn).cpu(), stops > 0,
        )  # fmt: skip

    def losses(self, batch: Example) -> torch.Tensor:
        """Loss of each clip of a batch on the device, float32 [B]."""
        noisy = add_noise(batch.latents, batch.noise, batch.timestep)
        identity = (batch.id_embedding, batch.hidden_states, batch.kept_tokens, batch.identity_scale)
        with self.computing():
            predicted = self.net(
                torch.cat((noisy, batch.image_latents), dim=1), batch.timestep, batch.text,
                *(identity if self.placed.stage.identity_tokens else ()),
            )  # fmt: skip
        return clip_losses(predicted, velocity(batch.latents, batch.noise, batch.timestep), batch.mask)

    def rates(self, step: int) -> dict[str, float]:
        """Learning rate of each group of parameters at a step, by the group's factor."""
        factors = (group["factor"] for group in self.optimizer.param_groups)
        return {f"factor {value:g}": rate for value, rate in zip(factors, self._rates(step), strict=True)}

    @property
    def updates(self) -> int:
        """Of the weights in this stage. Each update reaches all that learn, so AdamW counts the same for all."""
        return int(next(iter(self.optimizer.state.values()))["step"])

    @updates.setter
    def updates(self, count: int) -> None:
        for moments in self.optimizer.state.values():
            moments["step"].fill_(count)

    def state(self, with_moments: bool = True) -> dict[str, torch.Tensor]:
        """Everything that training changes, by name; to be written, or read into.

        Args:
            with_moments: whether the optimiser's are among it.
        """
        state = {f"net.{name}": parameter.detach() for name, parameter in self.trained.items()}
        state |= {f"ema.{name}": average for name, average in self.averages.items()}
        if with_moments:
            for name, parameter in self.learning.items():
                moments = self.optimizer.state[parameter]
                state |= {f"{moment}.{name}": moments[moment] for moment in ("exp_avg", "exp_avg_sq")}
        return state

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The net has the averaged weights inside, if the run keeps any."""
        kept = {name: self.trained[name].detach().clone() for name in self.averages}
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, weights):
        for name, weight in weights.items():
            self.trained[name].copy_(weight)

    def _optimizer(self):
        settings = self.config.optimizer
        groups = {}
        for name, parameter in self.learning.items():
            groups.setdefault(factor(name, self.placed.stage.train), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": parameters, "factor": value} for value, parameters in groups.items()],
            lr=self.placed.stage.learning_rate, betas=(settings.beta1, settings.beta2), eps=settings.eps,
            weight_decay=settings.weight_decay, fused=self.ranks.device.type == "cuda",
        )  # fmt: skip
        # As AdamW itself makes them at its first step; here so that a checkpoint has tensors to be read into.
        for parameter in self.learning.values():
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device if self.ranks.device.type == "cuda" else None),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return optimizer

    def _rates(self, step):
        stage = self.placed.stage
        rate = stage.learning_rate * rate_factor(step - self.placed.start, stage.steps, self.config.optimizer)
        return [rate * group["factor"] for group in self.optimizer.param_groups]

    def computing(self) -> AbstractContextManager:
        """Around a forward pass: FSDP casts parameters itself; else autocast does what the precision says."""
        memory = self.config.memory
        is_sliced = self.ranks.count > 1 and memory.sharding == "fsdp"
        if memory.precision == "float32" or is_sliced:
            return nullcontext()
        return torch.autocast(self.ranks.device.type, torch.bfloat16)

    @torch.no_grad()
    def _average(self):
        """As diffusers' `EMAModel`: early on the averages follow faster."""
        if not self.averages:
            return
        n = self.averaged
        decay = min(self.config.optimizer.ema_decay, (1 + n) / (10 + n)) if n else 0.0
        self.averaged += 1
        for name, parameter in self.learning.items():
            self.averages[name].lerp_(parameter.float(), 1 - decay)


def _is_finite(value):
    return value - value == 0
