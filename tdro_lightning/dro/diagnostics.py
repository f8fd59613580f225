"""What shows whether the domain weights are healthy: their concentration, and the floor."""

import logging

import torch
from torch import Tensor

from tdro_lightning.dro.measurement import Measurement

WITHOUT_FLOOR = 10  # steps in which the measurement has lost its floor, before that is told

logger = logging.getLogger(__name__)


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


class FloorWatch:
    """Warns, once, of a measurement that has lost its floor.

    Args:
        measurement: the one that the run uses.
    """

    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement
        self.steps = 0

    def look(self, means: Tensor) -> None:
        """Count the step, from its mean reference loss of each domain, [K]; NaN where absent."""
        if not self.measurement.has_lost_floor(means):
            return
        self.steps += 1
        if self.steps == WITHOUT_FLOOR:
            logger.warning(
                "the reference has solved half of the domains, so module.reference_floor=%s of the "
                "median one's loss guards nothing and one domain may take all weight; take "
                "module.measurement=difference, or a reference that has seen small domains less",
                self.measurement.floor,
            )
