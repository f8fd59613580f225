"""Embeddings of documents, and exact inner-product search over them in bounded memory."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tdro_lightning.errors import DataError
from tdro_lightning.search.encoding import HALF_FROM, SHARD_TEXTS, Forecast, Shards, encode
from tdro_lightning.search.retriever import Hits
from tdro_lightning.search.scorer import KEPT_TEXTS, TextScorer

QUERIES_AT_ONCE = 1024
FIRST_BLOCK = 1024  # small, since all of it is sorted; after it, few documents are among the best


# Embeddings [N, D] that are read by slices.
Rows = Shards | NDArray[np.floating[Any]]


class DenseScorer(TextScorer):
    """Inner products of dense embeddings with texts that are embedded when they are scored."""

    def stack(self, parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embeddings one below the other."""
        return np.concatenate(parts)

    def products(
        self, queries: NDArray[np.float32], embeddings: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Inner products [P] of the rows of two [P, D]."""
        return np.einsum("pd,pd->p", queries, embeddings)

    def all_products(
        self, queries: NDArray[np.float32], embeddings: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Inner products [Q, P] of every row of [Q, D] with every row of [P, D]."""
        return queries @ embeddings.T


class DenseIndex(DenseScorer):
    """Embedded documents, searched exactly.

    Args:
        retriever: whose embeddings they are.
        documents: embeddings [N, D].
        folder, position: as in `Retriever.index`.
    """

    documents: Shards

    def __init__(
        self,
        retriever: "DenseRetriever",
        documents: Shards,
        folder: Path,
        position: Callable[[str], int] | None,
    ) -> None:
        super().__init__(retriever.embed_documents, documents, position)
        self._device = retriever.device

    def search(self, queries: NDArray[np.float32], depth: int) -> Hits:
        """The documents of largest inner product with embeddings [Q, D] of queries."""
        return exact_search(queries, self.documents, depth, device=self._device)


@dataclass(frozen=True)
class DenseRetriever:
    """Inner products of embeddings, searched exactly.

    Attributes:
        embed_queries: texts and prompt to embeddings [Q, D].
        embed_documents: texts to embeddings [N, D].
        fingerprint: of the encoder; embeddings of an earlier run are used by it.
        device: where the search multiplies.
        announce: called with a name and forecast, where an encoding takes several shards.
        shard_texts: texts in one file of embeddings.
        half_from: number of texts from which on they are stored in float16.
    """

    embed_queries: Callable[[Sequence[str], str | None], NDArray[np.float32]]
    embed_documents: Callable[[Sequence[str]], NDArray[np.float32]]
    fingerprint: str
    device: str = "cpu"
    announce: Callable[[str, Forecast], None] | None = None
    shard_texts: int = SHARD_TEXTS
    half_from: int = HALF_FROM
    index_class: ClassVar[type[DenseIndex]] = DenseIndex

    def truncated(self, size: int) -> Self:
        """The same retriever with the first values of each vector, scaled to unit length."""

        def cut(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
            first = vectors[:, :size]
            return first / np.linalg.norm(first, axis=1, keepdims=True).clip(1e-12)

        return replace(
            self,
            embed_queries=lambda texts, prompt: cut(self.embed_queries(texts, prompt)),
            embed_documents=lambda texts: cut(self.embed_documents(texts)),
            fingerprint=hashlib.sha256(f"{self.fingerprint} first {size}".encode()).hexdigest(),
        )

    def scorer(self, kept: int = KEPT_TEXTS) -> DenseScorer:
        """Scores of texts that are embedded when they are asked for; so many are kept."""
        return DenseScorer(self.embed_documents, kept=kept)

    def query_scorer(self, prompt: str | None) -> DenseScorer:
        """The same of texts that are embedded as queries."""
        return DenseScorer(lambda texts: self.embed_queries(texts, prompt))

    def encode_queries(
        self, texts: Sequence[str], prompt: str | None, folder: Path, name: str = ""
    ) -> Shards:
        """Embed queries, each process its share, into `queries` in a folder, as in `encode`."""
        return encode(
            texts,
            lambda some: self.embed_queries(some, prompt),
            folder / "queries",
            self.fingerprint,
            prompt,
            self.shard_texts,
            self.half_from,
            what=f"queries of {name}" if name else "queries",
        )

    def index(
        self,
        documents: Sequence[str],
        folder: Path,
        name: str,
        position: Callable[[str], int] | None = None,
    ) -> DenseIndex:
        """Embed documents, each process its share, into `documents` in a folder."""
        announce = self.announce
        embeddings = encode(
            documents,
            self.embed_documents,
            folder / "documents",
            self.fingerprint,
            shard_texts=self.shard_texts,
            half_from=self.half_from,
            announce=announce and (lambda forecast: announce(name, forecast)),
            what=f"passages of {name}",
        )
        return self.index_class(self, embeddings, folder, position)


@torch.inference_mode()
def exact_search(
    queries: NDArray[np.floating[Any]],
    documents: Rows,
    depth: int,
    *,
    block: int = 16384,
    device: str = "cpu",
) -> Hits:
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
    _require_comparable(vectors, "query", 0, len(vectors))
    scores = torch.full((len(queries), depth), -torch.inf, device=device)
    indices = torch.full((len(queries), depth), -1, device=device)
    for span in _spans(len(documents), max(depth, FIRST_BLOCK), block):
        part = torch.tensor(documents[span], device=device).float()
        _require_comparable(part, "document", span.start, len(documents))
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


def _merge(scores: Tensor, indices: Tensor, block: Tensor, first: int) -> None:
    """Put the documents of a block where they belong among the best so far, in place.

    Args:
        scores: [Q, K] of the best so far, falling.
        indices: [Q, K] of the best so far.
        block: [Q, B] scores of documents with higher indices than those.
        first: index of the first of these.
    """
    # Those no better than the last of the best stay out: on equal scores the lower index wins.
    width = int((block > scores[:, -1:]).sum(1).max()) if len(block) else 0
    if width == 0:
        return
    places = block.topk(width, sorted=False).indices.sort(dim=1).values
    both = torch.cat([scores, block.gather(1, places)], dim=1)
    ordered, order = both.sort(dim=1, descending=True, stable=True)
    chosen = order[:, : scores.shape[1]]
    indices.copy_(torch.cat([indices, places + first], dim=1).gather(1, chosen))
    scores.copy_(ordered[:, : scores.shape[1]])


def _require_comparable(embeddings: Tensor, name: str, first: int, total: int) -> None:
    """Refuse embeddings [B, D], those from `first` on of `total`, that cannot be compared."""
    end = first + len(embeddings)
    faults = {
        "hold NaN or infinity": ~embeddings.isfinite().all(1),
        "have norm zero": ~embeddings.any(1),
    }
    for fault, broken in faults.items():
        rows = (first + broken.nonzero()[:, 0]).tolist()
        if rows:
            among = f"{total}" if end == total else f"the first {end}"
            raise DataError(
                f"{len(rows)} of {among} {name} embeddings {fault}, "
                f"first at index {', '.join(map(str, rows[:5]))}"
            )
