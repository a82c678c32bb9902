"""TeaCache for a MODEL, by whatever sampler: which steps are skipped is settled when a sampling begins."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_patcher
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ..checkpoint.step_cache_fit import fit_path, read_fit
from ..errors import ConsisIDError
from ..model.config import TransformerConfig
from ..model.step_cache import PUBLISHED_FIT, ResidualCache, StepCacheFit, skipped_steps
from ..model.transformer import BLOCKS_WRAPPER
from .transformer import ConsisID, require_consisid

_KEY = "consisid_step_cache"

_WITHOUT_STEPS = ("dpm_fast_function", "dpm_adaptive_function")
"""Sampler functions of ComfyUI that choose their own noise levels."""


def with_step_cache(
    model: comfy.model_patcher.ModelPatcher, threshold: float, start_percent: float = 0.0, end_percent: float = 1.0
) -> comfy.model_patcher.ModelPatcher:
    """A copy of MODEL that skips its blocks at steps where little changes; an earlier step cache is replaced.

    Args:
        model: ConsisID, of the released size or with a fit beside its weights.
        threshold: what may change, relative to the output, until blocks are run again; 0 skips nothing.
        start_percent, end_percent: part of sampling in which steps may be skipped.

    Raises:
        ConsisIDError: MODEL is not ConsisID, the range ends before it starts, or no fit is known for the weights.
    """
    if start_percent > end_percent:
        raise ConsisIDError(f"start_percent {start_percent} lies after end_percent {end_percent}; swap them.")
    net = require_consisid(model)
    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.SAMPLER_SAMPLE, _KEY)
    if threshold > 0:
        cache = StepCache(fit_of(net), threshold, start_percent, end_percent)
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, _KEY, cache)
    return model


def fit_of(model: ConsisID) -> StepCacheFit:
    """The fit beside the weights of a model, else the published one if they have the size of the released ones.

    Raises:
        ConsisIDError: there is none, or its file is damaged.
    """
    fit = read_fit(model.weights)
    if fit is None and _size(model.config) == _size(TransformerConfig()):
        fit = PUBLISHED_FIT
    if fit is None:
        raise ConsisIDError(
            f"{model.weights} has another size than the released weights, so their step cache does not fit it, and "
            f"there is no {fit_path(model.weights).name} beside it. Make one with `python -m consisid_core.training "
            "fit_step_cache`, or take ComfyUI's EasyCache node, which needs none."
        )
    return fit


def _size(config):
    return config.num_layers, config.hidden_dim, config.time_embed_dim


@dataclass(frozen=True)
class StepCache:
    """Around the sampler of each sampling (SAMPLER_SAMPLE): what it keeps is of this sampling alone."""

    fit: StepCacheFit
    threshold: float
    start_percent: float
    end_percent: float

    def __call__(
        self,
        sample: Callable,
        guider: comfy.samplers.CFGGuider,
        sigmas: torch.Tensor,
        extra_args: dict,
        callback: Callable | None,
        *args,
        **kwargs,
    ) -> torch.Tensor:
        log = logging.getLogger("consisid")
        function = getattr(sample.class_obj, "sampler_function", None)
        if getattr(function, "__name__", None) in _WITHOUT_STEPS:
            log.warning("Step cache: off, because this sampler chooses noise levels of its own. Take another sampler.")
            return sample(guider, sigmas, extra_args, callback, *args, **kwargs)

        cache = ResidualCache(self.skipped(guider.inner_model, sigmas[:-1]))
        run = ResidualCache.run
        if "torch._dynamo" in sys.modules:
            # A compiled net calls it as it is: tracing it would compile anew at each step. The blocks stay compiled.
            run = torch.compiler.disable(run, recursive=False)
        run = functools.partial(run, cache)

        # The sampler calls it after the first evaluation of each step; those that follow lead to the next.
        def on_step(step, *results):
            cache.begin_step(step + 1)
            if callback is not None:
                callback(step, *results)

        add_wrapper_with_key(BLOCKS_WRAPPER, _KEY, run, extra_args["model_options"], is_model_options=True)
        try:
            samples = sample(guider, sigmas, extra_args, on_step, *args, **kwargs)
        finally:
            cache.clear()
        log.info("Step cache: %d of %d forwards saved.", sum(cache.forwards), len(cache.forwards))
        return samples

    @torch.no_grad()
    def skipped(self, model: ConsisID, sigmas: torch.Tensor) -> list[bool]:
        """Whether each step is skipped.

        Args:
            model: loaded; sigmas: [S] noise levels at which the steps evaluate it, on its device.
        """
        sampling, net = model.model_sampling, model.diffusion_model
        first, last = map(sampling.percent_to_sigma, (self.start_percent, self.end_percent))
        embeddings = net.embed_time(sampling.timestep(sigmas).float(), model.manual_cast_dtype or model.get_dtype())
        return skipped_steps(embeddings, self.fit, self.threshold, [last <= s <= first for s in sigmas.tolist()])
