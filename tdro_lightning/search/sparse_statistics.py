"""What an inverted index holds, and about how much work a query is in it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tdro_lightning.search.inverted import InvertedIndex

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class IndexStatistics:
    """Numbers of an inverted index, after documents' terms were cut and their weights rounded.

    Attributes:
        documents: N.
        vocabulary: V.
        postings: weights above zero in all documents.
        document_terms: mean number of terms of a document.
        document_terms_quantiles: of that number, by the shares in `QUANTILES`.
        query_terms: mean number of terms of a query; None without queries.
        posting_length: mean number of documents of a term that is in any.
        dead_terms: terms that are in no document.
        constant_terms: terms that are in every document.
        flops: products that a query and a document need on average, were they drawn independently:
            the sum over terms of the share of queries with it times the share of documents with it;
            None without queries.
        bytes: of the files of the inverted index, without the embeddings that it was made from.
    """

    documents: int
    vocabulary: int
    postings: int
    document_terms: float
    document_terms_quantiles: dict[float, float]
    query_terms: float | None
    posting_length: float
    dead_terms: int
    constant_terms: int
    flops: float | None
    bytes: int


def index_statistics(index: InvertedIndex, queries: csr_array | None = None) -> IndexStatistics:
    """Count what is in an index.

    Args:
        index: whose files are there.
        queries: embeddings [Q, V] with Q of at least 1, as `SparseShards.take` gives them.

    Raises:
        DataError: a file of the embeddings is missing or damaged.
    """
    documents = index.documents
    count, vocabulary = documents.shape
    found = np.zeros(vocabulary, dtype=np.int64)
    for shard in range(documents.count):
        found += _frequencies(documents.stored(documents.span(shard)).terms, vocabulary)
    lengths = documents.lengths
    alive = int(np.count_nonzero(found))
    asked = None
    if queries is not None:
        asked = _frequencies(queries.indices[queries.data != 0], vocabulary) / queries.shape[0]
    return IndexStatistics(
        documents=count,
        vocabulary=vocabulary,
        postings=int(found.sum()),
        document_terms=float(lengths.mean()),
        document_terms_quantiles=dict(
            zip(QUANTILES, np.quantile(lengths, QUANTILES).tolist(), strict=True)
        ),
        query_terms=None if asked is None else float(asked.sum()),
        posting_length=float(found.sum() / max(alive, 1)),
        dead_terms=vocabulary - alive,
        constant_terms=int(np.count_nonzero(found == count)),
        flops=None if asked is None else float(asked @ (found / count)),
        bytes=sum(block.path.stat().st_size for block in index.blocks),
    )


def _frequencies(terms: NDArray[np.integer], vocabulary: int) -> NDArray[np.int64]:
    return np.bincount(terms, minlength=vocabulary)
