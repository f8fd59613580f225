import numpy as np
import pytest
import torch

from tdro_lightning.dro.objective import sample_coefficients


def test_coefficients_give_the_weighted_sum_of_domain_means() -> None:
    random = np.random.default_rng(0)
    domain = np.array([0, 0, 0, 1, 2, 2])
    alpha = np.array([0.5, 0.3, 0.2])
    losses = random.random(6)
    by_hand = sum(alpha[g] * losses[domain == g].mean() for g in range(3))
    coefficients = sample_coefficients(torch.from_numpy(domain), torch.from_numpy(alpha))
    assert (coefficients.numpy() * losses).sum() == pytest.approx(by_hand, abs=1e-15)


def test_equal_counts_give_the_released_normalisation() -> None:
    domain = torch.tensor([0, 1, 2, 0, 1, 2])
    alpha = torch.tensor([0.5, 0.3, 0.2])
    released = alpha[domain] / alpha[domain].sum()
    torch.testing.assert_close(sample_coefficients(domain, alpha), released.double())


def test_an_absent_domain_shares_out_its_weight() -> None:
    coefficients = sample_coefficients(torch.tensor([0, 0]), torch.tensor([0.2, 0.8]))
    assert coefficients.tolist() == [0.5, 0.5]
