"""What BM25, an encoder or a cross-encoder finds in a pool for queries, and how it scores pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.data.characters import normalise
from tdro_lightning.distributed.collectives import rank
from tdro_lightning.distributed.processes import barrier
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation import evaluate
from tdro_lightning.mining.miner import Hits, Ranker
from tdro_lightning.mining.pool import Pool
from tdro_lightning.models.cross_encoder import CrossEncoder
from tdro_lightning.search.bm25 import BM25
from tdro_lightning.search.dense import exact_search
from tdro_lightning.search.ivf import ivf_search, write_ivf
from tdro_lightning.search.shards import Shards

KEPT_TEXTS = 1 << 15  # half a gigabyte of vectors of 4096 values


class Retriever(Protocol):
    """Anything that can rank a pool's passages."""

    @property
    def fingerprint(self) -> str:
        """What tells its rankings from others'."""
        ...

    def prepare(self, pool: Pool, folder: Path) -> "Prepared":
        """Do what takes all processes once for a pool, keeping files in a folder."""
        ...


class Prepared(Protocol):
    """A pool that can be asked."""

    def ranker(self, queries: Sequence[str], prompt: str | None, folder: Path) -> Ranker:
        """Do what takes all processes once for the queries, keeping files in a folder."""
        ...


class Lexical:
    """BM25, without the prompt.

    The index is in memory, in each process: a million passages of 60 terms take about 2 GB while it
    is built. Larger pools are for an encoder.
    """

    fingerprint = "bm25 2"  # of the analysis of texts, too

    def prepare(self, pool: Pool, folder: Path) -> "LexicalPool":
        """Index the pool."""
        return LexicalPool(BM25(pool.texts))


@dataclass(frozen=True)
class LexicalPool:
    """A pool's index."""

    index: BM25

    def ranker(self, queries: Sequence[str], prompt: str | None, folder: Path) -> Ranker:
        """The index with the queries."""
        return LexicalRanker(self.index, queries)


@dataclass(frozen=True)
class LexicalRanker:
    """BM25 scores."""

    index: BM25
    queries: Sequence[str]

    def search(self, rows: Sequence[int], depth: int) -> Hits:
        """The best passages of some queries."""
        return self.index.search([self.queries[row] for row in rows], depth)

    def score(self, rows: Sequence[int], texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores of pairs."""
        scores = [np.empty(0, dtype=np.float32)]
        pairs = groupby(zip(rows, texts, strict=True), key=lambda pair: pair[0])
        for row, own in pairs:
            scores.append(self.index.score(self.queries[row], [text for _, text in own]))
        return np.concatenate(scores)

    def forget(self) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class Dense:
    """Inner products of embeddings.

    Attributes:
        encoder: what embeds, also of evaluation sets.
        approximate: search an IVF index instead of all passages.
    """

    encoder: evaluate.Dense
    approximate: bool = False

    @property
    def fingerprint(self) -> str:
        """The encoder's."""
        return self.encoder.fingerprint

    def prepare(self, pool: Pool, folder: Path) -> "DensePool":
        """Embed the pool, each process its share, and build the index where one is wanted."""
        passages = self.encoder.encoded_documents(pool.texts, folder, "passages")
        if not self.approximate:
            return DensePool(self, pool, passages, None)
        index = folder / f"{passages.digest}.ivf"
        if rank() == 0:
            write_ivf(passages, index)
        barrier()
        return DensePool(self, pool, passages, index)

    def scorer(self, queries: Sequence[str], prompt: str | None, folder: Path) -> "DenseScorer":
        """The encoder without a pool: a text is embedded whenever it is asked for."""
        embedded = self.encoder.encoded_queries(queries, prompt, folder)
        return DenseScorer(embedded, Remembered(self.encoder.embed_documents))


class Remembered:
    """An encoder of different texts that keeps the latest vectors, for hits that queries share."""

    def __init__(
        self, embed: Callable[[Sequence[str]], NDArray[np.float32]], kept: int = KEPT_TEXTS
    ) -> None:
        self._embed, self._kept = embed, kept
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [N, D]."""
        missing = [text for text in texts if text not in self._vectors]
        if missing:
            self._vectors |= zip(missing, map(np.copy, self._embed(missing)), strict=True)
        vectors = np.stack([self._vectors[text] for text in texts])
        for text in list(islice(self._vectors, max(len(self._vectors) - self._kept, 0))):
            del self._vectors[text]
        return vectors

    def forget(self) -> None:
        """Keep no vector."""
        self._vectors.clear()


@dataclass(frozen=True)
class DenseScorer:
    """Inner products with texts that are embedded here and now.

    Attributes:
        queries: embeddings [Q, D].
        embed_passages: texts to embeddings [N, D].
    """

    queries: Shards
    embed_passages: Remembered

    def score(self, rows: Sequence[int], texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores of pairs."""
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        vectors = self.vectors(list(places))
        asked, which = np.unique(np.array(rows), return_inverse=True)
        queries = self.queries.take(asked)[which]
        scores = np.einsum("pd,pd->p", queries, vectors[[places[text] for text in texts]])
        return _finite(scores)

    def vectors(self, texts: list[str]) -> NDArray[np.float32]:
        """Embeddings of different texts."""
        return self.embed_passages(texts)

    def forget(self) -> None:
        """Keep no vector."""
        self.embed_passages.forget()


@dataclass(frozen=True)
class DensePool:
    """An embedded pool.

    Attributes:
        passages: embeddings [N, D].
        index: file of the IVF index, None for an exact search.
    """

    retriever: Dense
    pool: Pool
    passages: Shards
    index: Path | None

    def ranker(self, queries: Sequence[str], prompt: str | None, folder: Path) -> Ranker:
        """Embed the queries, each process its share."""
        without_pool = self.retriever.scorer(queries, prompt, folder)
        return DenseRanker(without_pool.queries, without_pool.embed_passages, self)


@dataclass(frozen=True)
class DenseRanker(DenseScorer):
    """Inner products with the passages of a pool."""

    embedded: DensePool

    def search(self, rows: Sequence[int], depth: int) -> Hits:
        """The best passages of some queries."""
        queries = self.queries.take(np.array(rows))
        if self.embedded.index is not None:
            return ivf_search(self.embedded.index, queries, depth)
        device = self.embedded.retriever.encoder.device
        return exact_search(queries, self.embedded.passages, depth, device=device)

    def vectors(self, texts: list[str]) -> NDArray[np.float32]:
        """Embeddings of different texts, read where they are the pool's."""
        by_text = self.embedded.pool.by_text
        places = np.array([min(by_text[normalise(text)], default=-1) for text in texts])
        vectors = np.empty((len(texts), self.queries.shape[1]), dtype=np.float32)
        own = places >= 0
        vectors[own] = self.embedded.passages.take(places[own])
        if not own.all():
            vectors[~own] = self.embed_passages([texts[i] for i in np.flatnonzero(~own)])
        return vectors


@dataclass(frozen=True)
class PairScorer:
    """A cross-encoder's scores."""

    model: CrossEncoder
    queries: Sequence[str]

    def score(self, rows: Sequence[int], texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores of pairs."""
        return _finite(self.model.score([self.queries[row] for row in rows], texts))

    def forget(self) -> None:
        """Nothing is kept."""


def _finite(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    broken = np.flatnonzero(~np.isfinite(scores))
    if len(broken):
        raise DataError(f"{len(broken)} of {len(scores)} scores are not finite")
    return scores
