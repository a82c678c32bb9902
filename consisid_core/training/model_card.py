"""The model card of an export: what it is, what it was trained on, how, and how well it does."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConsisIDError
from ..model.config import INJECTION_PLANS, TransformerConfig
from .cache import Index, read_index
from .run_folder import CONFIG
from .validation import read_scores

if TYPE_CHECKING:
    from .export import TrainedWeights

_CARD = """---
library_name: diffusers
pipeline_tag: text-to-video
tags:
{tags}
---

# {title}

{what}

## Use

{use}

## Training

{began} {step} steps ({stages}); these are {which}.

{data}

The people in the training data must have agreed to it, and so must whoever is shown with this model. Say here who they
are and how they agreed, and choose a licence that the first weights and the data allow.

## Figures

{figures}

## Every number of the run

```toml
{config}
```
"""

_USE_LORA = (
    "In ComfyUI: put `{title}.safetensors` into `models/loras`, and a Load ConsisID LoRA, or any LoRA loader for "
    "models alone, after Load ConsisID DiT."
)
_USE_NET = (
    "In ComfyUI: put this folder below `models/diffusion_models`, and choose it in Load ConsisID DiT. With diffusers: "
    '`ConsisIDTransformer3DModel.from_pretrained("{title}")`.'
)
_OTHER_PLAN = " diffusers attends identity tokens at the output of blocks only, and would make other videos of this."


_RELEASED = {
    name: getattr(TransformerConfig(), name) for name in ("injection", "low_frequency", "high_frequency", "keypoints")
}


def model_card(weights: TrainedWeights, title: str, is_lora: bool) -> str:
    """The text of README.md.

    Args:
        weights: that are exported.
        title: name of the folder.
        is_lora: whether the LoRA is exported alone.
    """
    config, progress = weights.config, weights.progress
    begun = [name for name, stage in config.stages.items() if stage.steps]
    use = (_USE_LORA if is_lora else _USE_NET).format(title=title)
    if not is_lora and weights.net.injection != TransformerConfig().injection:
        use += _OTHER_PLAN
    base = Path(config.weights.transformer).name
    return _CARD.format(
        tags="\n".join(f"- {tag}" for tag in ["consisid", "comfyui", *(["lora"] if is_lora else [])]),
        title=title,
        what=_what(weights, is_lora),
        use=use,
        began=f"It began with `{base}`." if base else "It began with random weights.",
        step=progress.step,
        stages=", then ".join(begun),
        which="their average over training (EMA)" if weights.is_averaged else "the last weights",
        data=_data(config.data.cache),
        figures=_figures(weights),
        config=_config_text(weights).strip(),
    )


def _config_text(weights):
    """The run's config without the places of files on the machine that trained."""
    text = (weights.run_dir / CONFIG).read_text(encoding="utf-8")
    for path in filter(None, (weights.config.weights.transformer, weights.config.data.cache)):
        text = text.replace(json.dumps(path), json.dumps(Path(path).name))
    return text


def _what(weights, is_lora):
    net = weights.net
    plan = next((name for name, fields in INJECTION_PLANS.items() if replace(net, **_RELEASED | fields) == net), None)
    kind = f"A LoRA of rank {weights.config.lora.rank} for ConsisID" if is_lora else "A ConsisID transformer"
    halves = [
        *(["the low-frequency half (image latents of the face)"] if net.low_frequency else []),
        *(["drawn key points"] if net.low_frequency and net.keypoints else []),
        *([f"the high-frequency half (identity tokens, attended at `{net.injection}`)"] if net.high_frequency else []),
    ]
    of_plan = f", plan {plan} of the paper's Table 3" if plan else ""
    return (
        f"{kind}: one photo of a person and a prompt become a video of that person (arXiv 2411.17440). It takes "
        f"{' and '.join(halves) or 'no identity'}{of_plan}."
    )


def _data(cache):
    try:
        index = read_index(cache)
    except ConsisIDError:
        index = None
    if index is None:
        return "What it was trained on cannot be counted any more: its cache is gone."
    return _counts(index)


def _counts(index: Index):
    size = index.geometry
    masks = Counter(clip.mask_source for clip in index.clips)
    people = len({clip.person for clip in index.clips})
    outside = sum(bool(clip.outside) for clip in index.clips)
    rows = {
        "Clips": len(index.clips),
        "People": people,
        "Size": f"{size.width}x{size.height}, {size.frames} frames, one of {size.stride} taken",
        "Masks": ", ".join(f"{count} {source}" for source, count in masks.most_common()),
        "Clips with photos of the person from outside": outside,
    }
    if index.is_demo:
        rows["Nets"] = "stand-ins among those that prepared the data: results say nothing of the released ones"
    return "| Data | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _figures(weights):
    scores = [score for score in read_scores(weights.run_dir) if score["step"] <= weights.progress.step]
    if not scores:
        return "No validation videos were made."
    head = "| Step | Stage | FaceSim, every frame | Frames without a face | Videos |\n|---|---|---|---|---|\n"
    rows = [
        f"| {score['step']} | {score['stage']} | {score['face_sim']:.3f} | {score['without_face']:.1%} | "
        f"{len(score['cases'])} |"
        for score in scores
    ]
    recogniser = scores[-1]["recogniser"]
    note = " It is a stand-in, whose cosines cannot be compared with others'." if scores[-1]["is_stand_in"] else ""
    return (
        head
        + "\n".join(rows)
        + f"\n\nFaceSim is the cosine of the recogniser in `{recogniser}` between video and photo.{note}"
    )
