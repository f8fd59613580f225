from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.search.dense import exact_search


def by_hand(queries: np.ndarray, documents: np.ndarray, depth: int) -> np.ndarray:
    scores = queries.astype(np.float64) @ documents.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :depth]


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("depth", [1, 10, 120])
def test_agrees_with_a_full_sort(block: int, depth: int) -> None:
    generator = np.random.default_rng(3)
    queries = generator.standard_normal((33, 16), dtype=np.float32)
    documents = generator.standard_normal((300, 16), dtype=np.float32)
    scores, indices = exact_search(queries, documents, depth, block=block)
    np.testing.assert_array_equal(indices, by_hand(queries, documents, depth))
    expected = np.take_along_axis(queries @ documents.T, indices, axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert scores.dtype == np.float32
    assert indices.dtype == np.int64


@pytest.mark.parametrize("block", [5, 50, 1000])
@pytest.mark.parametrize("depth", [1, 4, 100, 150])
@pytest.mark.parametrize("number", [1, 40])
def test_ties_go_to_the_lower_index(block: int, depth: int, number: int) -> None:
    generator = np.random.default_rng(4)
    queries = generator.integers(1, 3, (number, 4)).astype(np.float32)
    documents = generator.integers(1, 3, (200, 4)).astype(np.float32)
    _, indices = exact_search(queries, documents, depth, block=block)
    np.testing.assert_array_equal(indices, by_hand(queries, documents, depth))


def test_all_documents_alike() -> None:
    _, indices = exact_search(np.ones((3, 2), np.float32), np.ones((50, 2), np.float32), 5)
    assert indices.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_fewer_documents_than_depth() -> None:
    queries = -np.ones((1, 2), np.float32)
    scores, indices = exact_search(queries, np.array([[2, 2], [1, 1]], np.float32), 4, block=1)
    assert indices.tolist() == [[1, 0, -1, -1]]
    assert scores.tolist() == [[-2, -4, 0, 0]]


@pytest.mark.parametrize("order", ["falling", "rising", "shuffled"])
def test_any_order_of_the_scores(order: str) -> None:
    """Rising scores make every document better than all before it."""
    values = np.arange(1, 5001, dtype=np.float32)
    if order == "shuffled":
        values = np.random.default_rng(5).permutation(values)
    documents = np.stack([values[::-1] if order == "falling" else values, np.ones(5000)], axis=1)
    queries = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    _, indices = exact_search(queries, documents.astype(np.float32), 1500, block=2000)
    np.testing.assert_array_equal(indices, by_hand(queries, documents, 1500))


def test_documents_in_half_precision_from_a_file(tmp_path: Path) -> None:
    """Products of what is stored, in float32: as accurate as if it had been stored so."""
    generator = np.random.default_rng(6)
    queries = generator.standard_normal((7, 32), dtype=np.float32)
    documents = generator.standard_normal((3000, 32)).astype(np.float16)
    np.save(tmp_path / "documents.npy", documents)
    mapped = np.load(tmp_path / "documents.npy", mmap_mode="r")
    scores, indices = exact_search(queries, mapped, 20)
    np.testing.assert_array_equal(indices, by_hand(queries, documents, 20))
    exact = queries.astype(np.float64) @ documents.astype(np.float64).T
    np.testing.assert_allclose(scores, np.take_along_axis(exact, indices, axis=1), rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    documents = np.ones((9, 3), np.float32)
    documents[[2, 7], 1] = value
    message = "2 of 9 document embeddings hold NaN or infinity, first at index 2, 7"
    with pytest.raises(DataError, match=message):
        exact_search(np.ones((2, 3), np.float32), documents, 1)


def test_a_fault_ends_the_search_where_it_is() -> None:
    documents = np.ones((5000, 2), np.float32)
    documents[[1500, 4000]] = 0
    message = "1 of the first 2048 document embeddings have norm zero, first at index 1500$"
    with pytest.raises(DataError, match=message):
        exact_search(np.ones((1, 2), np.float32), documents, 1)


def test_norm_zero() -> None:
    queries = np.zeros((8, 3), np.float32)
    message = "8 of 8 query embeddings have norm zero, first at index 0, 1, 2, 3, 4$"
    with pytest.raises(DataError, match=message):
        exact_search(queries, np.ones((2, 3), np.float32), 1)


def test_shapes_and_sizes() -> None:
    ones = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"queries \(2, 3\) and documents \(2, 2\)"):
        exact_search(ones, ones[:, :2], 1)
    with pytest.raises(ValueError, match="depth and block must be at least 1, are 0 and 16384"):
        exact_search(ones, ones, 0)
