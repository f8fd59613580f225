"""What the sparse vectors of an evaluation are: how many terms, which ones, and what a query costs.

`sparse_vectors.json` has it for each encoder and set; a report shows it. Encoders of dense vectors
have none.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tdro_lightning.console.output import note_warning
from tdro_lightning.evaluation.benchmark import RetrievalSet
from tdro_lightning.evaluation.vector_faults import faulty_rows, vector_warnings
from tdro_lightning.files import write_json
from tdro_lightning.records.outputs import SPARSE_VECTORS
from tdro_lightning.search.inverted import InvertedIndex
from tdro_lightning.search.retriever import Hits, Index, Queries
from tdro_lightning.search.sparse_statistics import index_statistics

EXAMPLES = 5  # queries that are shown, each with the document that is ranked first for it
TOP = 10  # terms of a text that are shown
SHOWN = 200  # characters of a text that are shown


def describe_vectors(
    index: Index, queries: Queries, dataset: RetrievalSet, hits: Hits, seconds: float
) -> dict[str, Any] | None:
    """Numbers and examples of a set's sparse vectors; None where the vectors are dense.

    Args:
        index: of the set's documents.
        queries: of the set, as the index takes them.
        dataset: the set.
        hits: ranking of its documents.
        seconds: that the search for all queries took.
    """
    if not isinstance(index, InvertedIndex):
        return None
    asked: csr_array = queries.take(np.arange(len(dataset.queries)))
    found = index_statistics(index, asked)
    return {
        "vocabulary": found.vocabulary,
        "queries": _terms(np.diff(asked.indptr), found.vocabulary, dataset.query_ids),
        "documents": _terms(index.documents.lengths, found.vocabulary, dataset.document_ids),
        "posting_length": found.posting_length,
        "flops": found.flops,
        "dead_terms": found.dead_terms,
        "constant_terms": found.constant_terms,
        "index_bytes": found.bytes,
        "milliseconds_a_query": 1000 * seconds / len(dataset.queries),
        "examples": [*_examples(index, asked, dataset, hits)],
    }


def write_vectors(output: Path, content: Mapping[str, Mapping[str, Any]]) -> None:
    """Write what is known of sparse vectors, and warn of faulty ones; nothing without any.

    Args:
        output: the run folder.
        content: of `describe_vectors`, by encoder and set.
    """
    if content:
        write_json(output / SPARSE_VECTORS, content)
        for warning in vector_warnings(content):
            note_warning(warning)


def _terms(counts: NDArray[np.int64], vocabulary: int, ids: Sequence[str]) -> dict[str, Any]:
    """How many terms the vectors of some texts have, [N], and which texts are faulty."""
    return {
        "texts": len(counts),
        "mean": float(counts.mean()),
        "median": float(np.median(counts)),
        "max": int(counts.max()),
        **faulty_rows(counts, vocabulary, ids),
    }


def _examples(
    index: InvertedIndex, asked: csr_array, dataset: RetrievalSet, hits: Hits
) -> Iterator[dict[str, Any]]:
    """A few queries from the first to the last one, each before the first document found for it."""
    rows = np.unique(np.linspace(0, len(dataset.queries) - 1, EXAMPLES).astype(int)).tolist()
    for row in rows:
        text = dataset.queries[row]
        yield _example("query", dataset.query_ids[row], text, asked[[row]], index)
        score, document = float(hits[0][row, 0]), int(hits[1][row, 0])
        if document >= 0 and score > 0:
            vector = index.documents.take(np.array([document]))
            name, text = dataset.document_ids[document], dataset.documents[document]
            yield _example("document", name, text, vector, index)


def _example(
    kind: str, name: str, text: str, vector: csr_array, index: InvertedIndex
) -> dict[str, Any]:
    """A text with its terms of the largest weights, [1, V]; equal ones by number."""
    best = np.lexsort((vector.indices, -vector.data))[:TOP]
    terms = [(int(vector.indices[place]), float(vector.data[place])) for place in best]
    return {
        "kind": kind,
        "id": name,
        "text": text if len(text) <= SHOWN else f"{text[:SHOWN]}...",
        "terms": len(vector.data),
        "top": [{"term": t, "token": index.term(t), "weight": round(w, 4)} for t, w in terms],
    }
