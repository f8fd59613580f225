"""The tiled maximum equals one that holds all logits, in values and in gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tdro_lightning.models import tiled_max
from tdro_lightning.models.tiled_max import TILE, _tiles, sparse_vectors

Parts = tuple[Tensor, Tensor, Tensor | None, Tensor]


def made(
    rows: int = 4,
    length: int = 9,
    hidden: int = 16,
    terms: int = 1003,
    dtype: torch.dtype = torch.float64,
    bias: bool = True,
    seed: int = 0,
) -> Parts:
    """States, weight, bias and a mask with padding on both sides, and within."""
    random = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, length, hidden, generator=random, dtype=torch.float64)
    weight = torch.randn(terms, hidden, generator=random, dtype=torch.float64)
    shift = torch.randn(terms, generator=random, dtype=torch.float64) if bias else None
    mask = torch.rand(rows, length, generator=random) < 0.7
    mask[torch.arange(rows), torch.randint(length, (rows,), generator=random)] = True
    values = [None if v is None else v.to(dtype) for v in (states, weight, shift)]
    return (*values, mask)  # type: ignore[return-value]


def naive(
    states: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor, scale: float
) -> Tensor:
    """From all logits; `max` gives the first of equal values."""
    logits = F.linear(states, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return scale * logits.masked_fill(~mask[..., None], -torch.inf).max(dim=1).values


def saturated(largest: Tensor) -> Tensor:
    return largest.relu().log1p()


def gradients(vectors: Tensor, parts: Parts, share: float = 0.5) -> list[Tensor | None]:
    """Of the states, weight and bias, for a random gradient that is zero in half of the places."""
    random = torch.Generator().manual_seed(7)
    given = torch.randn(vectors.shape, generator=random, dtype=torch.float64)
    given = given * (torch.rand(vectors.shape, generator=random) < share)
    wanted = [p for p in parts[:3] if p is not None and p.requires_grad]
    found = iter(torch.autograd.grad(vectors, wanted, given.to(vectors)))
    return [next(found) if p is not None and p.requires_grad else None for p in parts[:3]]


def leaves(parts: Parts, *trained: bool) -> Parts:
    """The same values, some of which need a gradient."""
    new = [
        None if p is None else p.clone().requires_grad_(on)
        for p, on in zip(parts[:3], trained, strict=True)
    ]
    return (*new, parts[3])  # type: ignore[return-value]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tile", [1, 17, 256, 501, 1002, 1003, 5000])
def test_values_equal_those_of_all_logits(tile: int, bias: bool) -> None:
    parts = made(bias=bias)
    expected = naive(*parts, 0.3)
    for tracked in (True, False):
        with torch.set_grad_enabled(tracked):
            given = leaves(parts, True, True, bias)
            found = sparse_vectors(*given, 0.3, tile)
        torch.testing.assert_close(found, saturated(expected), rtol=0, atol=1e-13)
        assert found.requires_grad == tracked


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_tiles_of_whole_strips_have_the_very_bits_of_all_logits(dtype: torch.dtype) -> None:
    """Of few and many tokens, with a rest of few and of many terms in the last tile.

    Where a processor's product of some columns has not the bits of the product of all, which is
    looked at first, nothing can have them, and the values are as near as those products are.
    """
    for tile in (256, 257, 288, 480, 768, TILE):
        for rest in (0, 6, 47, 48, 200):
            for rows, length, hidden in ((1, 1, 64), (1, 11, 64), (4, 9, 16), (5, 40, 100)):
                parts = made(rows, length, hidden, 2 * tile + rest, dtype, seed=tile + rest)
                found = sparse_vectors(*parts, 0.3, tile)
                expected = saturated(naive(*parts, 0.3))
                states, weight = parts[0].flatten(0, 1), parts[1]
                by_tile = [F.linear(states, weight[part]) for part in _tiles(len(weight), tile)]
                if torch.equal(torch.cat(by_tile, dim=1), F.linear(states, weight)):
                    assert torch.equal(found, expected), (tile, rest, rows)
                nearly = 1e-12 if dtype == torch.float64 else 1e-5
                torch.testing.assert_close(found, expected, rtol=nearly, atol=nearly)


@pytest.mark.parametrize("trained", [(1, 0, 0), (0, 1, 0), (1, 1, 1), (0, 0, 1), (1, 0, 1)])
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 5e-6)], ids=["float64", "float32"]
)
def test_gradients_equal_those_of_all_logits(
    dtype: torch.dtype, atol: float, trained: tuple[int, int, int]
) -> None:
    """Whichever of states, weight and bias has one, in one block of rows and in several."""
    parts = made(dtype=dtype, seed=3)
    for block in (2**22, 2048):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiled_max, "ENTRIES", block)
            ours, theirs = (leaves(parts, *map(bool, trained)) for _ in range(2))
            found = gradients(sparse_vectors(*ours, 0.3, 300), ours)
            expected = gradients(saturated(naive(*theirs, 0.3)), theirs)
            for one, other in zip(found, expected, strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    assert one.dtype == dtype
                    torch.testing.assert_close(one, other, rtol=0, atol=atol)


def test_gradients_equal_differences() -> None:
    states, weight, bias, mask = leaves(made(3, 4, 5, 23), True, True, True)

    def pooled(*given: Tensor) -> Tensor:
        return sparse_vectors(*given, mask, 0.7, 10)  # type: ignore[misc]

    assert torch.autograd.gradcheck(pooled, (states, weight, bias))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    length=st.integers(1, 7),
    hidden=st.integers(1, 6),
    terms=st.integers(1, 40),
    tile=st.integers(1, 50),
    scale=st.floats(0.01, 10),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_mask(
    rows: int, length: int, hidden: int, terms: int, tile: int, scale: float, seed: int
) -> None:
    parts = made(rows, length, hidden, terms, seed=seed)
    ours, theirs = (leaves(parts, True, True, True) for _ in range(2))
    found, expected = sparse_vectors(*ours, scale, tile), saturated(naive(*theirs, scale))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(gradients(found, ours), gradients(expected, theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str) -> None:
    """Neither its side, nor its amount, nor what stands there."""
    states, weight, bias, _ = made(3, 6)
    mask = torch.ones(3, 6, dtype=torch.bool)
    at = (5, 0) if side == "left" else (0, 5)
    for filling in (0.0, 1e30, torch.nan, torch.inf):
        wide = F.pad(states, (0, 0, *at), value=filling).requires_grad_()
        wide_mask = F.pad(mask, at)
        own = states.clone().requires_grad_()
        found = sparse_vectors(wide, weight, bias, wide_mask, 1.0, 300)
        expected = sparse_vectors(own, weight, bias, mask, 1.0, 300)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
        (of_wide,) = torch.autograd.grad(found.sum(), wide)
        (of_own,) = torch.autograd.grad(expected.sum(), own)
        torch.testing.assert_close(of_wide[wide_mask], of_own.flatten(0, 1), rtol=0, atol=1e-12)
        assert not of_wide[~wide_mask].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_first_of_equal_tokens_has_the_gradient(dtype: torch.dtype) -> None:
    """Equal states of integers, whose products are exact, behind padding too."""
    weight = torch.randint(-3, 4, (1003, 16), generator=torch.Generator().manual_seed(0)).to(dtype)
    bias = torch.ones(1003, dtype=dtype)
    states = torch.ones(2, 5, 16, dtype=dtype).requires_grad_()
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 1, 1, 0]]).bool()
    sparse_vectors(states, weight, bias, mask, 1.0, 100).sum().backward()
    assert states.grad is not None
    touched = states.grad.abs().sum(2) > 0
    assert touched.tolist() == [[False, False, True, False, False], [True] + [False] * 4]


def test_a_text_without_counted_tokens_is_empty() -> None:
    parts = made()
    parts[3][1] = False
    ours = leaves(parts, True, True, True)
    sparse = sparse_vectors(*ours, 1.0, 100)
    assert not sparse[1].any()
    found = torch.autograd.grad(sparse[1].sum(), [ours[0], ours[1]])
    assert all(not value.any() for value in found)
    assert sparse_vectors(parts[0][:0], *parts[1:3], parts[3][:0]).shape == (0, 1003)


def test_a_value_that_is_not_finite_stays_one() -> None:
    """So that a loss of it is refused, rather than a text that looks empty."""
    states, weight, bias, mask = made()
    states[2] = torch.nan
    assert sparse_vectors(states, weight, bias, mask)[2].isnan().all()
    assert sparse_vectors(states, weight, bias, mask)[[0, 1, 3]].isfinite().all()


@pytest.mark.parametrize("bias", [False, True])
def test_bfloat16_is_left_from_the_maximum_on(bias: bool) -> None:
    """Logits in bfloat16 as a model's own, the rest in float32: values are off its grid."""
    parts = made(dtype=torch.bfloat16, bias=bias)
    wide = tuple(None if p is None else p.double() for p in parts[:3])
    ours, theirs = (
        leaves(parts, True, True, bias),
        leaves((*wide, parts[3]), True, True, bias),  # type: ignore[arg-type]
    )
    found = sparse_vectors(*ours, 0.3, 300)
    assert found.dtype == torch.float32
    logits = F.linear(*parts[:3]).float().masked_fill(~parts[3][..., None], -torch.inf)
    torch.testing.assert_close(
        found, saturated(0.3 * logits.amax(1)), rtol=0, atol=2**-7 * float(logits.max())
    )
    assert not torch.equal(found, found.bfloat16().float())
    for one, other in zip(
        gradients(found, ours), gradients(saturated(naive(*theirs, 0.3)), theirs), strict=True
    ):
        if one is not None and other is not None:
            assert one.dtype == torch.bfloat16
            assert (one.double() - other).norm() < 0.1 * other.norm()  # near ties are decided anew


@pytest.mark.parametrize("trained", [False, True])
def test_no_logits_are_kept(trained: bool) -> None:
    """For the backward pass: two numbers a text and term; the states only if the head trains."""
    rows, length, hidden, terms = 3, 50, 8, 1003
    parts = leaves(made(rows, length, hidden, terms, torch.float32), True, trained, trained)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        vectors = sparse_vectors(*parts, 1.0, 100)
    held = sum(tensor.numel() for tensor in kept if tensor.data_ptr() != parts[1].data_ptr())
    assert held == 2 * rows * terms + (rows * length * hidden if trained else 0)
    assert vectors.shape == (rows, terms)


def test_gradient_is_numpys() -> None:
    """A second computation, term by term, without autograd."""
    states, weight, bias, mask = made(2, 4, 3, 11)
    assert bias is not None
    logits = states.numpy() @ weight.numpy().T + bias.numpy()
    given = np.random.default_rng(0).normal(size=(2, 11))
    expected = np.zeros((2, 4, 3))
    for row in range(2):
        for term in range(11):
            places = np.flatnonzero(mask[row].numpy())
            best = places[np.argmax(logits[row, places, term])]
            if logits[row, best, term] > 0:
                slope = 0.5 / (1 + 0.5 * logits[row, best, term])
                expected[row, best] += given[row, term] * slope * weight[term].numpy()
    states.requires_grad_()
    sparse_vectors(states, weight, bias, mask, 0.5, 4).backward(torch.from_numpy(given))
    np.testing.assert_allclose(states.grad, expected, rtol=1e-12, atol=1e-12)
