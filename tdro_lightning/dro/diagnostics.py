"""Numbers that show whether the domain weights are healthy: concentration, step size, guards."""

import torch
from torch import Tensor


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
