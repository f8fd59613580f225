"""Sparse rows that are made up, and search by whole products."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from tdro_lightning.search.inverted import InvertedIndex, SparseRetriever


class Rows:
    """An encoder whose texts are the numbers of a matrix's rows; it keeps what it was asked for."""

    def __init__(self, rows: csr_array) -> None:
        self.rows, self.asked = rows, list[str]()

    def __call__(self, texts: Sequence[str], prompt: str | None = None) -> csr_array:
        self.asked += texts
        return self.rows[[int(text) for text in texts]]


def names(rows: csr_array) -> list[str]:
    return [str(row) for row in range(rows.shape[0])]


def retriever(queries: csr_array, documents: csr_array, **options) -> SparseRetriever:
    return SparseRetriever(Rows(queries), Rows(documents), "rows", **options)


def indexed(folder: Path, documents: csr_array, **options) -> InvertedIndex:
    return retriever(documents, documents, **options).index(names(documents), folder, "made")


def brute_force(
    queries: csr_array, documents: csr_array, depth: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Every product of two rows in float64, sorted; no document is -1 with score 0."""
    scores = (queries.astype(np.float64) @ documents.astype(np.float64).T).toarray()
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    left = ((0, 0), (0, depth - order.shape[1]))
    best = np.take_along_axis(scores, order, axis=1)
    return np.pad(best, left), np.pad(order, left, constant_values=-1)


def rational(random: np.random.Generator, shape: tuple[int, int], terms: int) -> csr_array:
    """Rows of some terms whose weights are quarters, so that float32 adds them without rounding."""
    rows = np.repeat(np.arange(shape[0]), terms)
    columns = random.integers(shape[1], size=len(rows))
    weights = random.integers(1, 9, size=len(rows)) / 4
    made = coo_array((weights.astype(np.float32), (rows, columns)), shape).tocsr()
    made.sum_duplicates()
    return made


def real(random: np.random.Generator, count: int, terms: int, vocabulary: int = 500) -> csr_array:
    """Rows of about so many terms, low numbers more often, with weights like log(1 + x)."""
    rows = np.repeat(np.arange(count), terms)
    columns = (vocabulary * random.random(len(rows)) ** 3).astype(int)
    weights = np.log1p(random.exponential(size=len(rows))) + 1e-3
    made = coo_array((weights.astype(np.float32), (rows, columns)), (count, vocabulary)).tocsr()
    made.sum_duplicates()
    return made
