"""What shows whether a training is healthy: concentrated weights, the floor, a loss at chance."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tdro_lightning.console.output import note_warning, withdraw_warning
from tdro_lightning.dro.measurement import Measurement

WITHOUT_FLOOR = 10  # steps in which the measurement's floor is ineffective, before the warning
AT_CHANCE = 20  # steps of the loss at chance, before the warning
WATCHES = "watches"  # in a checkpoint
NEAR_CHANCE = 0.02  # of ln(candidates), on either side, for means over ten steps
FAR_FROM_CHANCE = 0.1  # the same for single steps; nearly equal vectors scatter by 0.07


def concentration(weights: Tensor) -> dict[str, float]:
    """How far weights are from uniform.

    Args:
        weights: [K] domain weights, sum 1.

    Returns:
        `entropy` in nats, `effective_domains` (its exponential, at most K), and `max_over_min`.
    """
    entropy = -torch.special.xlogy(weights, weights).sum()
    return {
        "entropy": float(entropy),
        "effective_domains": float(entropy.exp()),
        "max_over_min": float(weights.max() / weights.min()),
    }


def by_domain(curves: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, float]:
    """Values on the host as `title/name`, without those of absent domains, which are NaN.

    Args:
        curves: [K] values by title.
        names: domain names, in index order.
    """
    return {
        f"{title}/{name}": value
        for title, values in curves.items()
        for name, value in zip(names, values.tolist(), strict=True)
        if math.isfinite(value)
    }


def _at_chance(distances: Sequence[float]) -> bool:
    """Whether the losses of `AT_CHANCE` steps stay at chance, rather than pass it on their way.

    The means of their first and second half are near it, and every one is not far.
    """
    half = AT_CHANCE // 2
    return (
        len(distances) == AT_CHANCE
        and max(map(abs, distances)) <= FAR_FROM_CHANCE
        and all(abs(fmean(d)) <= NEAR_CHANCE for d in (distances[:half], distances[half:]))
    )


class Watches:
    """Warn, once each, of a contrastive loss at chance and of a measurement without its floor.

    Both look at numbers that the step has anyway. A loss at chance is ln(candidates), as where all
    vectors are equal. A small model from scratch may pass such a stage and then learn, so the
    warning is withdrawn from the run's record when the loss has fallen.

    Args:
        causes: what a loss at chance may be due to: values by key.
        measurement: the one of a tDRO run.
    """

    def __init__(self, causes: Mapping[str, float], measurement: Measurement | None = None) -> None:
        self.causes = dict(causes)
        self.measurement = measurement
        self.without_floor = 0  # steps
        self.distances: list[float] = []  # of the last steps' losses from chance, as shares of it
        self.warned: tuple[int, int] | None = None  # step from 0, candidates

    def look_at_floor(self, means: Tensor) -> None:
        """Count the step, from its mean reference loss of each domain, [K]; NaN where absent."""
        if self.measurement is None or not self.measurement.floor_is_ineffective(means):
            return
        self.without_floor += 1
        if self.without_floor == WITHOUT_FLOOR:
            self._warn_of_floor(self.measurement)

    def look_at_loss(self, losses: Iterable[float], candidates: int, step: int) -> None:
        """Count a step.

        Args:
            losses: of the step, not weighted; their mean counts.
            candidates: passages among which each query finds its positive.
            step: its number, from 0.
        """
        if candidates < 2:
            return
        distance = fmean(losses) / math.log(candidates) - 1
        self.distances = [*self.distances, distance][-AT_CHANCE:]
        if self.warned is None and _at_chance(self.distances):
            self.warned = step, candidates
            note_warning(self._at_chance_since(*self.warned))
        elif self.warned is not None and fmean(self.distances) < -FAR_FROM_CHANCE:
            withdraw_warning(self._at_chance_since(*self.warned))
            self.warned = None

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint what has been counted."""
        checkpoint[WATCHES] = [self.without_floor, self.distances, self.warned]

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue to count; what a run has warned of holds for the resumed one too."""
        if WATCHES not in checkpoint:  # of an earlier version
            return
        self.without_floor, self.distances, self.warned = checkpoint[WATCHES]
        if self.measurement and self.without_floor >= WITHOUT_FLOOR:
            self._warn_of_floor(self.measurement)
        if self.warned is not None:
            note_warning(self._at_chance_since(*self.warned))

    def _warn_of_floor(self, measurement: Measurement) -> None:
        note_warning(
            "the reference has solved half of the domains, so module.reference_floor="
            f"{measurement.floor} of the median one's loss guards nothing and one domain may take "
            "all weight; take module.measurement=difference, or a reference that has seen small "
            "domains less"
        )

    def _at_chance_since(self, step: int, candidates: int) -> str:
        causes = ", ".join(f"{key}={value:g}" for key, value in self.causes.items())
        return (
            f"the mean loss was within {NEAR_CHANCE:.0%} of ln({candidates}) = "
            f"{math.log(candidates):.3f} for {AT_CHANCE} steps, up to step {step + 1}, as that of "
            "a model that scores all passages alike. Where it stays there, likely causes are a "
            "learning rate that is too high, a warm-up that is too short and a temperature that "
            f"does not suit the model ({causes})"
        )
