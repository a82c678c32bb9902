"""What happens where loss or gradient are no finite numbers: the step changes nothing; after many the run goes back."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConsisIDError
from .config import Guard


class Watch:
    """Counts steps that were skipped, and returns to one checkpoint."""

    def __init__(self, settings: Guard) -> None:
        self.settings = settings
        self.in_a_row = 0
        self._returned_to: Path | None = None
        self._returns = 0

    def must_go_back(self, is_finite: bool) -> bool:
        """Whether so many steps in a row were skipped that the run goes back.

        Args:
            is_finite: whether the last step's loss and gradient were.
        """
        self.in_a_row = 0 if is_finite else self.in_a_row + 1
        return self.in_a_row >= self.settings.skips

    def went_back(self, to: Path | None) -> None:
        """Note a return.

        Args:
            to: the checkpoint where the run goes on, or None for its start.

        Raises:
            ConsisIDError: it went back there too often.
        """
        self.in_a_row = 0
        self._returns = self._returns + 1 if to == self._returned_to else 1
        self._returned_to = to
        if self._returns > self.settings.returns:
            raise ConsisIDError(
                f"Loss or gradient are no finite numbers, again and again after {to or 'the start'}. Lower the "
                "learning rate, take larger batches (batch.size), or set memory.precision to float32; then start the "
                "same command again, which goes on from there."
            )
