"""Which of the passages that a search found become hard negatives."""

from collections.abc import Sequence
from dataclasses import dataclass

from tdro_lightning.errors import ConfigError


@dataclass(frozen=True)
class MiningRule:
    """The rank window and the score limits of hard negatives.

    The limits compare with the worst-scored positive of a row, since any of its positives may stand
    beside the negative in training (positive-aware mining: Moreira et al., NV-Retriever, 2024).

    Args:
        negatives: wanted for each row.
        depth: hits looked at, the skipped ones included.
        skip: best hits passed over, known positives among them counted.
        margin: passages that score above the positive's score less this are no negatives; at least
            0.
        ratio: passages that score above this share of the positive's score are no negatives; of a
            positive's score below 0 as much is taken off as of its absolute value; from 0 to 1.
        max_score: passages that score above this are no negatives.

    Raises:
        ConfigError: the window is narrower than `negatives`.
    """

    negatives: int
    depth: int
    skip: int = 0
    margin: float | None = None
    ratio: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        if self.negatives < 1 or self.skip < 0 or self.depth - self.skip < self.negatives:
            raise ConfigError(
                f"mine.depth={self.depth} less mine.skip={self.skip} (0 or more) must be at least "
                f"mine.negatives={self.negatives} (1 or more)"
            )

    @property
    def compares(self) -> bool:
        """Whether a limit depends on the positive's score."""
        return self.margin is not None or self.ratio is not None

    @property
    def has_limits(self) -> bool:
        """Whether scores decide at all."""
        return self.compares or self.max_score is not None

    def excess(self, score: float, positives: Sequence[float]) -> str | None:
        """The limit that a passage's score exceeds, None where it exceeds none.

        Args:
            score: of the passage.
            positives: of the row's positives; not looked at unless `compares`.
        """
        most = {"max_score": self.max_score}
        positive = min(positives) if self.compares else 0.0
        if self.margin is not None:
            most["margin"] = positive - self.margin
        if self.ratio is not None:
            most["ratio"] = positive - (1 - self.ratio) * abs(positive)
        return next(
            (name for name, limit in most.items() if limit is not None and score > limit), None
        )
