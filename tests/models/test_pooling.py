import numpy as np
import pytest
import torch

from tdro_lightning.models.pooling import POOLINGS

LENGTHS = [5, 1, 3]


def by_hand(states: np.ndarray, mask: np.ndarray, how: str) -> np.ndarray:
    kept = [row[keep] for row, keep in zip(states.astype(np.float64), mask, strict=True)]
    return np.stack([row[-1] if how == "last" else row.mean(0) for row in kept])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("how", ["last", "mean"])
@pytest.mark.parametrize(
    ("given", "wide", "tolerance"),
    [
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 1e-6),
        (torch.bfloat16, torch.float32, 1e-6),
    ],
)
def test_against_plain_indexing(
    side: str, how: str, given: torch.dtype, wide: torch.dtype, tolerance: float
) -> None:
    states = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1)).to(given)
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    mask = mask.flip(1) if side == "left" else mask
    pooled = POOLINGS[how](states, mask)
    assert pooled.dtype == wide
    expected = by_hand(states.double().numpy(), mask.numpy(), how)
    np.testing.assert_allclose(pooled.double().numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("how", ["last", "mean"])
def test_padding_gets_no_gradient(how: str) -> None:
    states = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(2)).requires_grad_()
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    POOLINGS[how](states, mask).sum().backward()
    assert not states.grad[~mask].any()
    share = torch.tensor([1 / 5, 1.0, 1 / 3])
    for row, length in enumerate(LENGTHS):
        expected = torch.zeros(length, 7)
        if how == "last":
            expected[-1] = 1
        else:
            expected[:] = share[row]
        torch.testing.assert_close(states.grad[row, :length], expected)
