"""Exact inner-product search over embeddings, in bounded memory."""

from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from tdro_lightning.errors import DataError

QUERIES_AT_ONCE = 1024


class Rows(Protocol):
    """Embeddings [N, D] that are read by slices: an array, a memory map, or shards of them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, D]."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.float32]: ...


def exact_search(
    queries: NDArray[np.float32],
    documents: Rows,
    depth: int,
    *,
    block: int = 16384,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the documents of largest inner product for each query, best first.

    Equal scores are ordered by index. The documents are gone through once, `block` at a time, so
    they may lie in files larger than memory.

    Args:
        queries: embeddings [Q, D].
        documents: embeddings [N, D].
        depth: number of columns of the result.
        block: documents held in the index at a time.

    Returns:
        Scores [Q, depth] and document indices [Q, depth]; with fewer than `depth` documents the
        last columns hold index -1 and score 0.

    Raises:
        DataError: an embedding holds NaN or infinity, or has norm zero.
        ValueError: the shapes do not match, or depth or block is below 1.
    """
    if queries.ndim != 2 or queries.shape[1:] != documents.shape[1:]:
        raise ValueError(
            f"queries {queries.shape} and documents {documents.shape} must be [Q, D] and [N, D]"
        )
    if depth < 1 or block < 1:
        raise ValueError(f"depth and block must be at least 1, are {depth} and {block}")
    _check(queries, "query")
    _check(documents, "document", block)
    scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
    indices = np.full((len(queries), depth), -1, dtype=np.int64)
    index = faiss.IndexFlatIP(queries.shape[1])
    for first in range(0, len(documents), block):
        index.reset()
        index.add(np.ascontiguousarray(documents[first : first + block], dtype=np.float32))
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            found, places = _candidates(index, queries[rows], depth)
            scores[rows], indices[rows] = _top(
                np.concatenate([scores[rows], found], axis=1),
                np.concatenate([indices[rows], places + first], axis=1),
                depth,
            )
    scores[indices < 0] = 0
    return scores, indices


def _candidates(
    index: faiss.IndexFlatIP, queries: NDArray[np.float32], depth: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Search one block wide enough that no cut runs through equal scores."""
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    width = min(depth + 1, index.ntotal)
    scores, indices = index.search(queries, width)
    while width < index.ntotal and np.any(scores[:, depth - 1] == scores[:, -1]):
        width = min(8 * width, index.ntotal)
        scores, indices = index.search(queries, width)
    return scores, indices


def _top(
    scores: NDArray[np.float32], indices: NDArray[np.int64], depth: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    order = np.lexsort((indices, -scores), axis=-1)[:, :depth]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)


def _check(embeddings: Rows, name: str, block: int = 16384) -> None:
    broken: list[int] = []
    zero: list[int] = []
    for first in range(0, len(embeddings), block):
        part = embeddings[first : first + block]
        broken.extend((first + np.flatnonzero(~np.isfinite(part).all(axis=1))).tolist())
        zero.extend((first + np.flatnonzero(~part.any(axis=1))).tolist())
    for rows, fault in ((broken, "hold NaN or infinity"), (zero, "have norm zero")):
        if rows:
            raise DataError(
                f"{len(rows)} of {len(embeddings)} {name} embeddings {fault}, "
                f"first at index {', '.join(map(str, rows[:5]))}"
            )
