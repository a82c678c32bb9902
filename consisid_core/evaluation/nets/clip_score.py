"""CLIPScore: how well the frames of a video fit its prompt, by CLIP ViT-B/32.

`protocol="paper"` is `eval/get_clipscore.py` of the official repository: the frames `int(i * N / 16)`, red and blue
exchanged because OpenCV's order is not turned round, and the mean of `logits_per_image`, which is 100 x cosine with
the released weights. `protocol="strict"` takes every frame, in its true colours, and 100 x cosine itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F

from ...checkpoint.files import DEMO_MARKER
from ...errors import ConsisIDError, in_short, is_out_of_memory, lack_of_memory, optional_library
from ..protocol import PAPER_FRAMES, Score, check_protocol, mean_score

if TYPE_CHECKING:
    from ..video import FrameBatch, VideoFile

log = logging.getLogger("consisid")

_BATCH = 16
_SOURCE = "https://huggingface.co/openai/clip-vit-base-patch32"


@dataclass(frozen=True, eq=False)
class TextSimilarity:
    """How well a video fits its prompt, frame by frame."""

    protocol: str
    positions: np.ndarray
    """[F] int: which frames were looked at, from 0."""
    values: np.ndarray
    """[F] float64: 100 x cosine; in the paper's protocol with CLIP's own factor instead of 100."""
    is_prompt_cut: bool
    """Whether the prompt is longer than the tokens that CLIP reads."""

    @property
    def score(self) -> Score:
        """Score over the frames."""
        score = mean_score(self.values)
        return score if self.protocol == "strict" else Score(score.mean, None, score.count)


def text_positions(protocol: str, frame_count: int) -> Sequence[int]:
    """Which frames a protocol looks at: all, or 16 at equal distances, the first among them and the last not."""
    if protocol == "strict":
        return range(frame_count)
    return [int(i * frame_count / PAPER_FRAMES) for i in range(PAPER_FRAMES)]


class ClipScorer:
    """CLIP from a folder as transformers keeps it; `net` is its torch module."""

    def __init__(self, folder: Path | str) -> None:
        """
        Args:
            folder: with config.json, preprocessor_config.json, the tokenizer's files and the weights of
                openai/clip-vit-base-patch32.

        Raises:
            ConsisIDError: the folder is missing or incomplete, or transformers is not installed. Nothing is downloaded.
        """
        with optional_library("CLIPScore"):
            from transformers import CLIPModel, CLIPProcessor
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise ConsisIDError(f"{folder} is no folder with a config.json. Put all files of {_SOURCE} into one.")
        try:
            self.processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
            # Without ignore_mismatched_sizes transformers raises a sentence about that option.
            self.net, report = CLIPModel.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
            )
        # transformers raises OSError, ValueError, KeyError and more for what is wrong with a folder.
        except Exception as error:
            if is_out_of_memory(error):
                raise lack_of_memory(f"No CLIP can be loaded from {folder}") from None
            raise ConsisIDError(f"No CLIP can be loaded from {folder} ({in_short(error)}). Take {_SOURCE}.") from None
        # transformers fills gaps with random numbers.
        wrong = sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])])
        if wrong:
            raise ConsisIDError(
                f"The weights in {folder} are not those that its config.json describes: {len(wrong)} parameters are "
                f"missing or of another shape ({', '.join(wrong[:3])}). Take {_SOURCE}."
            )
        self.net.eval().requires_grad_(False)
        self.name = folder.name
        self.is_demo = bool(getattr(self.net.config, DEMO_MARKER, False))

    def score(
        self,
        video: VideoFile | FrameBatch,
        prompt: str,
        protocol: str,
        on_frame: Callable[[], None] = lambda: None,
    ) -> TextSimilarity:
        """How well a video fits a prompt.

        Args:
            video: its frames.
            prompt: the text; CLIP reads the first 77 tokens.
            protocol: "strict" or "paper".
            on_frame: called after each frame; it may raise.

        Raises:
            ConsisIDError: an empty prompt, an unknown protocol, or what the video's `frames` raises.
        """
        check_protocol(protocol)
        if not prompt.strip():
            raise ConsisIDError("The prompt is empty, so there is nothing to compare the video with.")
        text = self.processor.tokenizer(prompt, return_tensors="pt", truncation=True)
        length = text["input_ids"].shape[1]
        is_cut = len(self.processor.tokenizer(prompt, verbose=False)["input_ids"]) > length
        if is_cut:
            log.warning("CLIP reads the first %d tokens of a prompt; the rest of this one does not count.", length)
        chosen = None if protocol == "strict" else text_positions(protocol, video.frame_count)
        positions, values, batch = [], [], []
        for position, frame in video.frames(chosen):
            positions.append(position)
            batch.append(frame if protocol == "strict" else np.ascontiguousarray(frame[..., ::-1]))
            if len(batch) == _BATCH:
                values += self._values(text, batch, protocol)
                batch = []
            on_frame()
        if batch:
            values += self._values(text, batch, protocol)
        return TextSimilarity(protocol, np.array(positions), np.array(values, np.float64), is_cut)

    def _values(self, text, frames, protocol):
        pixels = self.processor.image_processor(images=frames, return_tensors="pt")
        inputs = {name: tensor.to(self.net.device) for name, tensor in {**text, **pixels}.items()}
        output = self.net(**inputs)
        if protocol == "paper":
            return output.logits_per_image[:, 0].tolist()
        return (100 * F.cosine_similarity(output.image_embeds, output.text_embeds)).tolist()
