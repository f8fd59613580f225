"""Warn of sparse vectors that training leaves without terms, or with nearly all of them."""

from collections.abc import Mapping
from typing import Any

from tdro_lightning.console.output import note_warning, withdraw_warning
from tdro_lightning.losses.sparsity import Sparsity

IN_A_ROW = 20  # steps, before the warning
FEWEST = 1.0  # terms of a text on average
MOST = 0.9  # of the vocabulary, once the factors have risen: untrained vectors may have all terms
STATE = "term_watch"  # in a checkpoint


class TermWatch:
    """Count the steps in which the texts of a side have too few or too many terms on average.

    A warning is withdrawn from the run's record when a step is right again.

    Args:
        sparsity: what keeps vectors sparse; None where nothing is counted.
    """

    def __init__(self, sparsity: Sparsity | None) -> None:
        self.sparsity = sparsity
        self.steps: dict[str, int] = {}  # in a row, by side and kind
        self.warned: dict[str, str] = {}  # warnings that hold, by the same

    def look_at(self, logged: Mapping[str, float], vocabulary: int, step: int) -> None:
        """Count a step.

        Args:
            logged: what `Sparsity.penalise` has returned.
            vocabulary: V.
            step: its number, from 0.
        """
        if self.sparsity is None:
            return
        for side in ("queries", "passages"):
            terms = logged[f"sparsity/terms/{side}"]
            risen = step >= self.sparsity.ramp_steps
            self._count(f"{side} few", terms < FEWEST, side, terms, vocabulary, step)
            most = risen and terms > MOST * vocabulary
            self._count(f"{side} many", most, side, terms, vocabulary, step)

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint what has been counted."""
        checkpoint[STATE] = [self.steps, self.warned]

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue to count; what a run has warned of holds for the resumed one too."""
        if STATE not in checkpoint:  # of an earlier version
            return
        self.steps, self.warned = ({**part} for part in checkpoint[STATE])
        for warning in self.warned.values():
            note_warning(warning)

    def _count(
        self, key: str, faulty: bool, side: str, terms: float, vocabulary: int, step: int
    ) -> None:
        self.steps[key] = self.steps.get(key, 0) + 1 if faulty else 0
        if self.steps[key] == IN_A_ROW:
            self.warned[key] = self._warning(key, side, terms, vocabulary, step)
            note_warning(self.warned[key])
        elif not faulty and key in self.warned:
            withdraw_warning(self.warned.pop(key))

    def _warning(self, key: str, side: str, terms: float, vocabulary: int, step: int) -> str:
        assert self.sparsity is not None
        few = key.endswith("few")
        given = f"module.sparsity.{side}={getattr(self.sparsity, side):g}"
        found = f"{side} had {terms:.1f} of {vocabulary} terms on average"
        limit = f"fewer than {FEWEST:g}" if few else f"more than {MOST:.0%}"
        effect = (
            f"vectors without terms find nothing; {given} may be too high, or optimiser.lr"
            if few
            else f"such vectors are not sparse, and their search is slow; {given} may be too low"
        )
        return f"{found} at step {step + 1}, and {limit} for {IN_A_ROW} steps: {effect}"
