from collections.abc import Callable

import numpy as np
import pytest
import torch
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tdro_lightning.losses.contrastive import (
    all_passage_losses,
    hard_negative_losses,
    require_finite_losses,
)
from tdro_lightning.models.sparse_rows import SparseRows

POSITIVE = [0, 9, 4, 2]


def units(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    values = np.random.default_rng(seed).standard_normal(shape)
    return torch.tensor(values / np.linalg.norm(values, axis=-1, keepdims=True), dtype=dtype)


def own(queries: Tensor, passages: Tensor, temperature: float) -> np.ndarray:
    losses = []
    for query, candidates in zip(queries.double().numpy(), passages.double().numpy(), strict=True):
        scores = [float(sum(query * candidate)) / temperature for candidate in candidates]
        top = max(scores)
        losses.append(top + np.log(sum(np.exp(s - top) for s in scores)) - scores[0])
    return np.array(losses)


def against_all(
    queries: Tensor, passages: Tensor, positive: list[int], temperature: float
) -> np.ndarray:
    ordered = [[p, *(j for j in range(len(passages)) if j != p)] for p in positive]
    return own(queries, passages[torch.tensor(ordered)], temperature)


@pytest.mark.parametrize("temperature", [0.002, 0.05, 1.0])
def test_own_passages_against_numpy(temperature: float) -> None:
    queries, passages = units(5, 8, seed=1), units(5, 4, 8, seed=2)
    losses = hard_negative_losses(queries, passages, temperature)
    assert losses.shape == (5,)
    expected = own(queries, passages, temperature)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_passage_equal_to_the_positive_is_no_negative() -> None:
    """Against NumPy over the passages that are left to each query; gradients too."""
    queries, passages = units(4, 8, seed=3), units(11, 8, seed=4)
    keys = torch.tensor([5, 1, 2, 3, 5, 5, 6, 1, 8, 9, 10])
    losses = all_passage_losses(queries, passages, torch.tensor(POSITIVE), 0.05, keys)
    expected = []
    for query, place in zip(queries, POSITIVE, strict=True):
        others = [j for j in range(11) if j != place and keys[j] != keys[place]]
        candidates = passages[[place, *others]][None]
        expected += own(query[None], candidates, 0.05).tolist()
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-9, atol=1e-12)
    place = POSITIVE[0]
    equal = [j for j in range(11) if keys[j] == keys[place] and j != place]
    assert len(equal) == 2
    passages.requires_grad_()
    all_passage_losses(queries[:1], passages, torch.tensor([place]), 0.05, keys)[0].backward()
    assert passages.grad is not None
    assert not passages.grad[equal].any()


@pytest.mark.parametrize("temperature", [0.002, 0.05, 1.0])
def test_all_passages_against_numpy(temperature: float) -> None:
    queries, passages = units(4, 8, seed=3), units(11, 8, seed=4)
    losses = all_passage_losses(queries, passages, torch.tensor(POSITIVE), temperature)
    assert losses.shape == (4,)
    expected = against_all(queries, passages, POSITIVE, temperature)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_vectors_give_float32_losses(dtype: torch.dtype) -> None:
    queries, passages = units(5, 8, seed=1, dtype=dtype), units(5, 4, 8, seed=2, dtype=dtype)
    losses = hard_negative_losses(queries, passages, 1.0)
    every = all_passage_losses(queries, passages[:, 0], torch.arange(5), 1.0)
    assert (losses.dtype, every.dtype) == (torch.float32, torch.float32)
    np.testing.assert_allclose(losses.numpy(), own(queries, passages, 1.0), rtol=1e-6)
    expected = against_all(queries, passages[:, 0], [*range(5)], 1.0)
    np.testing.assert_allclose(every.numpy(), expected, rtol=1e-6)


def test_one_negative_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    passages = torch.tensor([[[0.6, 0.8], [0.8, 0.6]]], dtype=torch.float64)
    loss = hard_negative_losses(queries, passages, 0.1)
    assert loss.item() == pytest.approx(np.log(1 + np.exp(2.0)), rel=1e-12)


def differences(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    step, gradient = 1e-6, torch.zeros_like(at)
    for i in range(at.numel()):
        moved = torch.zeros_like(at)
        moved.view(-1)[i] = step
        gradient.view(-1)[i] = (function(at + moved) - function(at - moved)) / (2 * step)
    return gradient


@pytest.mark.parametrize("which", ["queries", "passages"])
def test_gradients_against_finite_differences(which: str) -> None:
    queries, own_passages, passages = (
        units(4, 6, seed=5),
        units(4, 3, 6, seed=6),
        units(11, 6, seed=7),
    )
    weights = torch.tensor([1.0, 0.3, 2.0, 0.7], dtype=torch.float64)
    positive = torch.tensor(POSITIVE)
    functions = {
        "queries": (
            lambda x: (weights * hard_negative_losses(x, own_passages, 0.1)).sum(),
            lambda x: (weights * all_passage_losses(x, passages, positive, 0.1)).sum(),
        ),
        "passages": (
            lambda x: (weights * hard_negative_losses(queries, x, 0.1)).sum(),
            lambda x: (weights * all_passage_losses(queries, x, positive, 0.1)).sum(),
        ),
    }
    points = {"queries": (queries, queries), "passages": (own_passages, passages)}
    for function, point in zip(functions[which], points[which], strict=True):
        variable = point.clone().requires_grad_()
        function(variable).backward()
        expected = differences(function, point)
        torch.testing.assert_close(variable.grad, expected, rtol=1e-6, atol=1e-7)


class Dtypes(TorchDispatchMode):
    """Collects the dtype of every tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        result = function(*args, **(kwargs or {}))
        self.seen |= {value.dtype for value in [result] if isinstance(value, Tensor)}
        return result


def test_scores_stay_float32_under_autocast() -> None:
    # Cosines of 0.80 and 0.79: five logits at a temperature of 0.002, two or none in bf16.
    query = torch.zeros(2, 16)
    query[:, 0] = 1
    passages = torch.zeros(2, 2, 16)
    for row, cosines in enumerate([(0.80, 0.79), (0.79, 0.80)]):
        for column, cosine in enumerate(cosines):
            passages[row, column, 0] = cosine
            passages[row, column, 1 + column] = (1 - cosine**2) ** 0.5
    expected = own(query, passages, 0.002)
    np.testing.assert_allclose(expected, np.log1p(np.exp([-5.0, 5.0])), rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (query @ passages[0].T).dtype == torch.bfloat16
        with Dtypes() as dtypes:
            losses = hard_negative_losses(query, passages, 0.002)
            every = all_passage_losses(query, passages[0], torch.tensor([0, 1]), 0.002)
    assert torch.float32 in dtypes.seen
    assert not dtypes.seen & {torch.bfloat16, torch.float16}
    assert (losses.dtype, every.dtype) == (torch.float32, torch.float32)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-3)
    np.testing.assert_allclose(every.numpy(), expected, rtol=1e-3)


def test_losses_that_are_not_finite_name_domain_and_row() -> None:
    names, ids = ["news", "code"], ["q1", "q2", "q3"]
    domain = torch.tensor([0, 1, 1])
    require_finite_losses(torch.tensor([0.0, 1e30, 2.0]), domain, names, ids, "proxy")
    bad = torch.tensor([1.0, float("nan"), float("inf")])
    with pytest.raises(FloatingPointError) as error:
        require_finite_losses(bad, domain, names, ids, "proxy")
    assert str(error.value) == (
        "2 proxy losses are not finite; nothing was updated; first rows: code:q2, code:q3"
    )


def test_only_the_first_five_bad_rows_are_named() -> None:
    bad = torch.full((9,), float("-inf"))
    ids = [f"q{i}" for i in range(9)]
    with pytest.raises(FloatingPointError, match="9 reference losses") as error:
        require_finite_losses(bad, torch.zeros(9), ["news"], ids, "reference")
    assert "news:q4" in str(error.value)
    assert "news:q5" not in str(error.value)


@pytest.mark.parametrize("sparse", [True, False], ids=["nonzero values", "whole vectors"])
def test_sentence_transformers_has_the_loss_of_sparse_vectors(sparse: bool) -> None:
    """Of queries, positives and two hard negatives each, against all passages."""
    random = torch.Generator().manual_seed(3)
    vectors = (torch.randn(4 * 6, 30, generator=random, dtype=torch.float64) - 0.7).relu()
    parts = vectors.split(6)
    theirs = SparseMultipleNegativesRankingLoss(model=None, scale=1.0)  # type: ignore[arg-type]
    expected = theirs.compute_loss_from_embeddings(list(parts), None)
    queries, passages = parts[0], torch.cat(parts[1:])
    given = (SparseRows.of(queries), SparseRows.of(passages)) if sparse else (queries, passages)
    found = all_passage_losses(*given, torch.arange(6), 1.0).mean()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
