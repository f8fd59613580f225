"""Exact inner-product search over embeddings, in bounded memory."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tdro_lightning.errors import DataError

QUERIES_AT_ONCE = 1024
FIRST_BLOCK = 1024  # small, since all of it is sorted; after it, few documents are among the best


class Rows(Protocol):
    """Embeddings [N, D] that are read by slices: an array, a memory map, or shards of them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, D]."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.floating[Any]]: ...


@torch.inference_mode()
def exact_search(
    queries: NDArray[np.floating[Any]],
    documents: Rows,
    depth: int,
    *,
    block: int = 16384,
    device: str = "cpu",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the documents of largest inner product for each query, best first.

    Equal scores are ordered by index. Products are float32, whatever the embeddings are stored in.
    The documents are gone through once, so they may lie in files larger than memory: of them, a
    block is held, 10 * block * D bytes; its scores take 5 * block bytes a query, for at most 1024
    queries at a time (80 MB); queries and result 4 * D + 12 * depth bytes a query. Only where
    nearly every document is better than all before it, the scores take ten times as much.

    Args:
        queries: embeddings [Q, D].
        documents: embeddings [N, D].
        depth: number of columns of the result.
        block: documents scored at a time.
        device: where they are scored.

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
    vectors = torch.tensor(queries, device=device, dtype=torch.float32)
    _check(vectors, "query", 0, len(vectors))
    scores = torch.full((len(queries), depth), -torch.inf, device=device)
    indices = torch.full((len(queries), depth), -1, device=device)
    for span in _spans(len(documents), max(depth, FIRST_BLOCK), block):
        part = torch.tensor(documents[span], device=device).float()
        _check(part, "document", span.start, len(documents))
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            _merge(scores[rows], indices[rows], vectors[rows] @ part.T, span.start)
    scores[indices < 0] = 0
    return scores.cpu().numpy(), indices.cpu().numpy()


def _spans(count: int, first: int, block: int) -> Iterator[slice]:
    """Consecutive slices, each at most as long as all before it, from the first one on."""
    start = 0
    while start < count:
        end = min(start + min(max(start, first), block), count)
        yield slice(start, end)
        start = end


def _merge(scores: Tensor, indices: Tensor, found: Tensor, first: int) -> None:
    """Put the documents of a block where they belong among the best so far, in place.

    Args:
        scores: [Q, K] of the best so far, falling.
        indices: [Q, K] of the best so far.
        found: [Q, B] scores of documents with higher indices than those.
        first: index of the first of these.
    """
    # Those no better than the last of the best stay out: on equal scores the lower index wins.
    width = int((found > scores[:, -1:]).sum(1).max()) if len(found) else 0
    if width == 0:
        return
    places = found.topk(width, sorted=False).indices.sort(dim=1).values
    both = torch.cat([scores, found.gather(1, places)], dim=1)
    ordered, order = both.sort(dim=1, descending=True, stable=True)
    chosen = order[:, : scores.shape[1]]
    indices.copy_(torch.cat([indices, places + first], dim=1).gather(1, chosen))
    scores.copy_(ordered[:, : scores.shape[1]])


def _check(embeddings: Tensor, name: str, first: int, total: int) -> None:
    """Refuse embeddings [B, D], those from `first` on of `total`, that cannot be compared."""
    end = first + len(embeddings)
    faults = {
        "hold NaN or infinity": ~embeddings.isfinite().all(1),
        "have norm zero": ~embeddings.any(1),
    }
    for fault, found in faults.items():
        rows = (first + found.nonzero()[:, 0]).tolist()
        if rows:
            among = f"{total}" if end == total else f"the first {end}"
            raise DataError(
                f"{len(rows)} of {among} {name} embeddings {fault}, "
                f"first at index {', '.join(map(str, rows[:5]))}"
            )
