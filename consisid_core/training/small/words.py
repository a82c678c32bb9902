"""The captions' words as rows of a small text encoder: T5's own tokens, of which only those that occur get a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ...errors import ConsisIDError, in_short
from ...people.captions import caption
from ...people.motion import ACTIONS
from ...people.person import BALD, BUZZ_CUT, COLOURS, CURLY, HAIR_COLOURS, LONG, SHORT, SKIN_TONES, Words
from ...people.scene import sample_scene

PADDING, END, UNKNOWN = 0, 1, 2
"""Tokens of T5, and the rows of these tokens."""

_CAPTIONS = 6000
"""So many name everything that the grammar can say."""


class Vocabulary:
    """Which token of T5 has which row."""

    def __init__(self, tokenizer_file: Path | str, tokens: Sequence[int] = (PADDING, END, UNKNOWN)) -> None:
        """
        Args:
            tokenizer_file: T5's tokenizer.json, as in ComfyUI's `comfy/text_encoders/t5_tokenizer`.
            tokens: those that have a row, the row's number being their place.

        Raises:
            ConsisIDError: the file is missing or no tokenizer.
        """
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        # tokenizers raises plain Exceptions.
        except Exception as error:
            raise ConsisIDError(
                f"{tokenizer_file} is no tokenizer ({in_short(error)}). Name with --tokenizer the file tokenizer.json "
                "in comfy/text_encoders/t5_tokenizer of a ComfyUI."
            ) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.tokens = [int(token) for token in tokens]
        self._row = {token: row for row, token in enumerate(self.tokens)}

    @classmethod
    def of_captions(cls, tokenizer_file: Path | str, captions: Iterable[str]) -> Vocabulary:
        """One with a row for every token of these captions."""
        first = cls(tokenizer_file)
        used = {token for text in first._tokenizer.encode_batch(list(captions)) for token in text.ids}
        return cls(tokenizer_file, [*first.tokens, *sorted(used - set(first.tokens))])

    def rows(self, caption: str, length: int) -> np.ndarray:
        """int32 [length]: a caption's rows, cut and padded as ComfyUI's text encoder does it."""
        tokens = self._tokenizer.encode(caption).ids
        if len(tokens) > length:
            tokens = [*tokens[: length - 1], END]
        rows = np.full(length, PADDING, np.int32)
        rows[: len(tokens)] = [self._row.get(token, UNKNOWN) for token in tokens]
        return rows


def mirrored(text: str) -> str:
    """A caption of the mirrored picture: left and right change places."""
    return text.replace("to the left", "to the \0").replace("to the right", "to the left").replace("\0", "right")


def every_caption(seed: int = 0) -> list[str]:
    """Captions that together name everything that can be said of a person, a background and an action."""
    rng = np.random.default_rng(seed)

    def one_of(things):
        things = list(things)
        return things[rng.integers(len(things))]

    return [
        caption(
            Words(
                who=f"{one_of(('young', 'middle-aged', 'old'))} {one_of(('man', 'woman'))}",
                skin=one_of(SKIN_TONES),
                hair=one_of(HAIR_COLOURS),
                hair_style=one_of((BALD, BUZZ_CUT, SHORT, CURLY, LONG)),
                eyes="",
                shirt=one_of(COLOURS),
                shirt_second=one_of((None, *COLOURS)),
                beard=one_of((None, "beard", "stubble")),
                glasses=one_of((False, True)),
            ),
            sample_scene(rng).background,
            one_of((None, *ACTIONS)),
            rng,
        )
        for _ in range(_CAPTIONS)
    ]
