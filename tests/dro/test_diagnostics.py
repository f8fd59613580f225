import math

import pytest
import torch

from tdro_lightning.dro.diagnostics import concentration


def test_uniform_weights_count_every_domain() -> None:
    got = concentration(torch.full((25,), 0.04, dtype=torch.float64))
    assert got["entropy"] == pytest.approx(math.log(25))
    assert got["effective_domains"] == pytest.approx(25)
    assert got["max_over_min"] == pytest.approx(1)


def test_unequal_weights_by_hand() -> None:
    got = concentration(torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))
    assert got["entropy"] == pytest.approx(1.5 * math.log(2))
    assert got["effective_domains"] == pytest.approx(2**1.5)
    assert got["max_over_min"] == pytest.approx(2)
