"""Exact inner-product search over sparse embeddings, by the documents that each term is in.

An inverted index lists the documents of each term with the term's weight. A query's scores are
summed list by list in float32, in the order of the terms' numbers, so that they depend neither on
the blocks in which documents are indexed nor on how many queries are searched together.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tdro_lightning.distributed.processes import barrier, rank, world_size
from tdro_lightning.errors import DataError
from tdro_lightning.search.encoding import SHARD_TEXTS, Forecast, encode_as
from tdro_lightning.search.inverted_blocks import blocks_of
from tdro_lightning.search.retriever import Hits
from tdro_lightning.search.scorer import KEPT_TEXTS, TextScorer
from tdro_lightning.search.sparse_files import (
    STORED,
    SparseShards,
    StoredRows,
    canonical,
    stack_rows,
)

BLOCK_WEIGHTS = 1 << 25  # in one block: while it is made, 0.8 GB of memory
BLOCK_DOCUMENTS = 1 << 20  # in one block: 4 MB of scores
QUERIES_AT_ONCE = 256  # that are multiplied with all rows of a table

logger = logging.getLogger(__name__)

Weights = Literal["float32", "float16", "int8"]


class SparseScorer(TextScorer):
    """Inner products of sparse embeddings with texts that are embedded when they are scored.

    A pair has the score that a search finds, to the last bit, if the text has the same embedding.
    """

    def stack(self, parts: Sequence[csr_array]) -> csr_array:
        """Embeddings one below the other."""
        return stack_rows(parts)

    def products(self, queries: csr_array, embeddings: csr_array) -> NDArray[np.float32]:
        """Inner products [P] of the rows of two [P, V]."""
        products = csr_array(queries, dtype=np.float32).multiply(embeddings).tocsr()
        # A product with ones adds in the order of the terms; `sum` might add in pairs.
        return products @ np.ones(products.shape[1], dtype=np.float32)

    def all_products(self, queries: csr_array, embeddings: csr_array) -> NDArray[np.float32]:
        """Inner products [Q, P] of every row of [Q, V] with every row of [P, V]."""
        rows = csr_array(queries, dtype=np.float32)
        found = np.empty((rows.shape[0], embeddings.shape[0]), dtype=np.float32)
        for start in range(0, len(found), QUERIES_AT_ONCE):  # products take three times the memory
            part = slice(start, start + QUERIES_AT_ONCE)
            found[part] = (rows[part] @ embeddings.T).toarray()
        return found


class InvertedIndex(SparseScorer):
    """Sparse documents in blocks, each with the documents of every term.

    All processes make it together, each its share of the blocks. The blocks lie in the folder; one
    that is there as it was written is left alone. `term` shows a term, as in `SparseRetriever`.

    Args:
        retriever: whose embeddings they are.
        documents: embeddings [N, V].
        folder, position: as in `Retriever.index`.
    """

    def __init__(
        self,
        retriever: "SparseRetriever",
        documents: SparseShards,
        folder: Path,
        position: Callable[[str], int] | None,
    ) -> None:
        super().__init__(retriever.stored_embeddings, documents, position)
        self._shape = documents.shape
        self.term = retriever.term
        limits = retriever.block_weights, retriever.block_documents
        self.blocks = blocks_of(documents, folder, *limits)
        for block in self.blocks[rank() :: world_size()]:
            block.write(documents)
        barrier()

    def search(self, queries: csr_array, depth: int) -> Hits:
        """The documents of largest inner product with embeddings [Q, V] of queries.

        Documents of equal scores are ordered by index, those without a term of the query too: they
        follow all others with score 0. The memory is that of a block's scores and of the result;
        blocks are read from the disk as they are needed.

        Returns:
            Scores [Q, depth] and document indices [Q, depth]; with fewer than `depth` documents the
            last columns hold index -1 and score 0.

        Raises:
            DataError: a block is missing or damaged, or a query holds NaN or infinity.
            ValueError: the vocabularies differ, or depth is below 1.
        """
        rows = csr_array(queries, dtype=np.float32)
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sum_duplicates()
        if rows.shape[1] != self._shape[1]:
            raise ValueError(
                f"queries {rows.shape} and documents {self._shape} must be [Q, V] and [N, V]"
            )
        if depth < 1:
            raise ValueError(f"depth must be at least 1, is {depth}")
        if not np.isfinite(rows.data).all():
            raise DataError("a query embedding holds NaN or infinity")
        scores = np.full((rows.shape[0], depth), -np.inf, dtype=np.float32)
        indices = np.full((rows.shape[0], depth), -1, dtype=np.int64)
        for number, block in enumerate(self.blocks):
            if number:
                logger.info("%d of %d blocks searched", number, len(self.blocks))
            block.search(rows, scores, indices)
        scores[indices < 0] = 0
        return scores, indices


@dataclass(frozen=True)
class SparseRetriever:
    """Inner products of sparse embeddings, searched exactly.

    Attributes:
        embed_queries: texts and prompt to sparse embeddings [Q, V], weights above zero.
        embed_documents: texts to sparse embeddings [N, V], weights above zero.
        encoder: fingerprint of the encoder; embeddings of an earlier run are used by it.
        weights: how documents' weights are stored: float32, float16, or int8 as `StoredRows` says.
        document_terms: terms that a document keeps at most, those of the largest weights; None
            keeps all.
        query_terms: the same of a query.
        announce: called with a name and forecast, where an encoding takes several shards.
        shard_texts: texts in one file of embeddings.
        block_weights: in one block of the index, unless one document has more.
        block_documents: in one block of the index.
        term: from the number of a term to how it is shown to people.

    Raises:
        ValueError: an option is not one of those above, or a number is below 1.
    """

    embed_queries: Callable[[Sequence[str], str | None], csr_array]
    embed_documents: Callable[[Sequence[str]], csr_array]
    encoder: str
    weights: Weights = "float32"
    document_terms: int | None = None
    query_terms: int | None = None
    announce: Callable[[str, Forecast], None] | None = None
    shard_texts: int = SHARD_TEXTS
    block_weights: int = BLOCK_WEIGHTS
    block_documents: int = BLOCK_DOCUMENTS
    term: Callable[[int], str] = str

    def __post_init__(self) -> None:
        if self.weights not in STORED:
            raise ValueError(f"weights must be one of {', '.join(STORED)}, is {self.weights!r}")
        for name in ("document_terms", "query_terms", "block_weights", "block_documents"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, is {value}")

    @property
    def fingerprint(self) -> str:
        """Of the encoder and all options that change scores."""
        options = f"{self.weights} {self.document_terms} {self.query_terms}"
        return hashlib.sha256(f"{self.encoder} sparse {options}".encode()).hexdigest()

    def scorer(self, kept: int = KEPT_TEXTS) -> SparseScorer:
        """Scores of texts that are embedded when they are asked for; so many are kept."""
        return SparseScorer(self.stored_embeddings, kept=kept)

    def query_scorer(self, prompt: str | None) -> SparseScorer:
        """The same of texts that are embedded as queries."""
        return SparseScorer(lambda texts: self._query_embeddings(texts, prompt))

    def encode_queries(
        self, texts: Sequence[str], prompt: str | None, folder: Path, name: str = ""
    ) -> SparseShards:
        """Embed queries, each process its share, into `queries` in a folder, as in `encode`."""
        return encode_as(
            SparseShards,
            "float32",
            texts,
            lambda some: self._query_embeddings(some, prompt),
            folder / "queries",
            f"{self.encoder} sparse, terms: {self.query_terms}",
            prompt,
            self.shard_texts,
            what=f"queries of {name}" if name else "queries",
        )

    def index(
        self,
        documents: Sequence[str],
        folder: Path,
        name: str,
        position: Callable[[str], int] | None = None,
    ) -> InvertedIndex:
        """Embed documents into `documents` in a folder, and index them beside; all processes."""
        announce = self.announce
        embeddings = encode_as(
            SparseShards,
            self.weights,
            documents,
            self._document_embeddings,
            folder / "documents",
            f"{self.encoder} sparse, terms: {self.document_terms}",
            shard_texts=self.shard_texts,
            announce=announce and (lambda forecast: announce(name, forecast)),
            what=f"passages of {name}",
        )
        return InvertedIndex(self, embeddings, folder, position)

    def stored_embeddings(self, texts: Sequence[str]) -> csr_array:
        """Embeddings [N, V] of texts as documents, with their terms and rounding."""
        rows = StoredRows.from_rows(self._document_embeddings(texts), self.weights)
        return rows.take(np.arange(len(texts)))

    def _query_embeddings(self, texts: Sequence[str], prompt: str | None) -> csr_array:
        return canonical(self.embed_queries(texts, prompt), texts, "query", self.query_terms)

    def _document_embeddings(self, texts: Sequence[str]) -> csr_array:
        return canonical(self.embed_documents(texts), texts, "document", self.document_terms)
