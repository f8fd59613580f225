"""Numbers of an index, counted by hand and from whole matrices."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from tdro_lightning.search.sparse_statistics import index_statistics
from tests.search.sparse_rows import indexed, real


def test_statistics(tmp_path: Path) -> None:
    """Counted by hand: rows (a b), (b), (), (b d) of five terms, asked for by (a) and (b d)."""
    documents = csr_array(
        np.array([[1, 2, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 3, 0, 1, 0]])
    )
    queries = csr_array(np.array([[1, 0, 0, 0, 0], [0, 2, 0, 2, 0]]))
    index = indexed(tmp_path, documents, shard_texts=3, block_documents=2)
    found = index_statistics(index, queries)
    assert (found.documents, found.vocabulary, found.postings) == (4, 5, 5)
    assert (found.document_terms, found.query_terms) == (5 / 4, 3 / 2)
    assert found.document_terms_quantiles[0.5] == 1.5
    assert (found.document_terms_quantiles[0.0], found.document_terms_quantiles[1.0]) == (0, 2)
    assert (found.posting_length, found.dead_terms, found.constant_terms) == (5 / 3, 2, 0)
    assert found.flops == 0.5 * 0.25 + 0.5 * 0.75 + 0.5 * 0.25
    files = list(tmp_path.rglob("*.csc"))
    assert found.bytes == sum(p.stat().st_size for p in files)
    alone = index_statistics(indexed(tmp_path / "one", documents[[0, 3]]))
    assert (alone.query_terms, alone.flops, alone.constant_terms) == (None, None, 1)
    nothing = index_statistics(indexed(tmp_path / "none", csr_array((2, 3))))
    assert (nothing.postings, nothing.posting_length, nothing.dead_terms) == (0, 0, 3)


def test_flops_is_the_mean_of_shared_terms(tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    documents, queries = real(random, 90, 12), real(random, 30, 5)
    shared = ((queries > 0).astype(int) @ (documents > 0).astype(int).T).toarray()
    found = index_statistics(indexed(tmp_path, documents), queries)
    assert found.flops == pytest.approx(shared.mean())
