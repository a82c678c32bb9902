"""Validation within a run: when, by which weights, and that it never costs the training."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ConsisIDError, in_short, is_out_of_memory
from ..face.providers import resolve_providers
from .cache import ClipCache
from .cases import CaseSet, has_cases
from .config import TrainingConfig
from .distributed import Ranks
from .loop import Trainer
from .monitor import Monitor
from .sample import Sampling
from .stages import placed_stages
from .validation import PredictPerson, Validator, validation_folder

log = logging.getLogger("consisid")


class _Stopped(Exception):
    """Somebody asked to stop while videos were made."""


@dataclass
class RunValidation:
    """What a process of a run needs to validate."""

    config: TrainingConfig
    run_dir: Path
    validator: Validator
    monitor: Monitor
    ranks: Ranks

    @classmethod
    def of(
        cls, config: TrainingConfig, run_dir: Path, cache: ClipCache, monitor: Monitor, ranks: Ranks
    ) -> RunValidation | None:
        """None if the run shall not validate, or the cache has no cases, which is said.

        Raises:
            ConsisIDError: the cases are damaged, or VAE or face pack are gone.
        """
        settings = config.validation
        if not settings.every:
            return None
        if not has_cases(cache):
            monitor.say(
                f"No validation videos: the cache names no people and prompts. To have some: python -m "
                f"consisid_core.training cases CASES.jsonl {cache.folder}"
            )
            return None
        sampling = Sampling(settings.steps, settings.guidance, config.run.seed)
        validator = Validator(CaseSet(cache), sampling, resolve_providers("auto"))
        return cls(config, run_dir, validator, monitor, ranks)

    def after_step(self, trainer: Trainer, step: int, stop: threading.Event) -> None:
        """Make and score videos if they are due. All processes call it: a sliced net computes on all of them.

        What goes wrong with the videos is said, and training goes on.

        Args:
            trainer: the stage.
            step: steps done.
            stop: set once somebody asks to stop, which ends the making of videos too.
        """
        end = placed_stages(self.config.stages)[-1].end
        if step % self.config.validation.every and step != end:
            return

        def on_step():
            # Of several processes one alone must not leave the others.
            if stop.is_set() and self.ranks.count == 1:
                raise _Stopped

        net, device = trainer.transformer_config, self.ranks.device
        try:
            with trainer.averaged_weights():
                latents = self.validator.latents(trainer_predictor(trainer), net, device, on_step)
        except _Stopped:
            return
        if self.ranks.is_first:
            facts = {"step": step, "stage": trainer.placed.name, "is_averaged": bool(trainer.averages)}
            self._write(latents, facts)
        self.ranks.wait()

    def _write(self, latents, facts):
        folder = validation_folder(self.run_dir, facts["step"])
        try:
            scores = self.validator.write(folder, latents, self.ranks.device, facts, self.monitor.writer)
        except (ConsisIDError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            what = str(error) if isinstance(error, ConsisIDError) else in_short(error)
            self.monitor.say(f"warning: no validation videos of step {facts['step']}: {what}")
            return
        mean = sum(score.face_sim for score in scores) / len(scores)
        without = sum(score.frames_without_face for score in scores)
        frames = sum(score.frames for score in scores)
        self.monitor.say(
            f"Step {facts['step']}: FaceSim {mean:.3f}, {without} of {frames} frames without a face; see {folder}."
        )


def trainer_predictor(trainer: Trainer) -> PredictPerson:
    """What the net in training says of a person, as `validation.predictor` of one that is done."""

    def of(case):
        device = trainer.ranks.device
        identity = ()
        if trainer.placed.stage.identity_tokens:
            kept = torch.ones(1, trainer.transformer_config.facial_extractor.num_queries, device=device)
            identity = (case.id_embedding[None].to(device), case.hidden_states[None].float().to(device), kept)

        def predict(latents, timestep, text):
            with trainer.computing():
                return trainer.net(latents, timestep, text, *identity)

        return predict

    return of
