"""The proxy's loss: per-sample losses weighted by the weight of their domain (Eq. 6)."""

import torch
from torch import Tensor


def sample_coefficients(domain: Tensor, weights: Tensor) -> Tensor:
    """Coefficient c_i of each sample such that sum_i c_i l_i = sum_g a_g mean_g(l) (Eq. 6).

    Args:
        domain: [N] domain index of every sample of the *global* batch.
        weights: [K] domain weights after this step's update.

    Returns:
        [N] float64, a_g / n_g for a sample of domain g; weights of absent domains are shared out
        among the present ones in proportion, so that the coefficients always sum to 1.
    """
    counts = torch.bincount(domain, minlength=len(weights)).double()
    weights = weights.double().to(domain.device)
    present = torch.where(counts > 0, weights, torch.zeros_like(weights))
    return (present / present.sum() / counts.clamp(min=1))[domain]
