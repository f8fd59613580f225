"""What is stored of sparse embeddings, against plain arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix, vstack

from tdro_lightning.errors import DataError
from tdro_lightning.search.inverted import SparseRetriever
from tdro_lightning.search.sparse_statistics import index_statistics
from tests.search.sparse_rows import brute_force, indexed, names, rational, real, retriever


@pytest.mark.parametrize("kind", [csr_array, csr_matrix])
def test_terms_out_of_order_repeated_and_zero(tmp_path: Path, kind: type[csr_array]) -> None:
    """Formats that scipy allows: the rows are (1, 5, 0) and (0, 2, 0)."""
    rows = kind((np.array([5, 1, 2, 0]), np.array([1, 0, 1, 2]), np.array([0, 2, 4])), shape=(2, 3))
    split = kind(
        (np.array([5, 0.5, 0.5, 2]), np.array([1, 0, 0, 1]), np.array([0, 3, 4])), shape=(2, 3)
    )
    for number, documents in enumerate((rows, split)):
        index = indexed(tmp_path / str(number), documents)
        np.testing.assert_array_equal(index.documents[:].toarray(), [[1, 5, 0], [0, 2, 0]])
        scores, _ = index.search(split, 2)
        np.testing.assert_array_equal(scores, [[26, 10], [10, 4]])
        assert index_statistics(index).postings == 3


def test_stored_weights_and_their_error_bounds(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    documents = real(random, 300, 40)
    documents.data[::7] *= 1e-4  # of which some vanish in 8 bits
    true = documents.toarray().astype(np.float64)
    largest = true.max(axis=1, keepdims=True)
    found, sizes = {}, {}
    for weights in ("float32", "float16", "int8"):
        index = indexed(tmp_path / weights, documents, weights=weights, shard_texts=77)
        found[weights] = index.documents[:].toarray().astype(np.float64)
        sizes[weights] = index_statistics(index).bytes
        taken = index.documents.take(np.array([250, 3, 3, 90])).toarray()
        np.testing.assert_array_equal(taken, found[weights][[250, 3, 3, 90]])
        # Rounding happens once: what is searched is what is stored.
        queries = real(random, 4, 10)
        stored = csr_array(found[weights])
        scores, indices = index.search(queries, 300)
        exact = (queries.astype(np.float64) @ stored.T).toarray()
        np.testing.assert_allclose(scores, np.take_along_axis(exact, indices, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(found["float32"], true)
    np.testing.assert_array_equal(found["float16"], true.astype(np.float16))
    assert (np.abs(found["int8"] - true) <= largest / 255).all()
    steps = 2.0 ** np.ceil(np.log2(largest / 255))
    assert (np.abs(found["int8"] - true) <= steps / 2).all()
    np.testing.assert_array_equal(found["int8"], steps * np.rint(true / steps))
    assert np.count_nonzero(found["int8"]) < documents.nnz
    assert sizes["int8"] < sizes["float16"] < sizes["float32"]


@pytest.mark.parametrize("largest", [255.0, 256.0, 1.0, 3e38, 1e-3, 1e-38, 2e-45, 4.2e-43])
def test_8_bits_hold_weights_of_any_size(tmp_path: Path, largest: float) -> None:
    weights = np.array([[largest, largest / 2, largest / 4, 0]], dtype=np.float32)
    documents = csr_array(np.concatenate([weights, 0 * weights]))
    found = indexed(tmp_path, documents, weights="int8").documents[:].toarray()
    assert np.isfinite(found).all()
    bound = max(np.float64(weights.max()) / 255, 0.7e-45)
    assert np.abs(found[0].astype(np.float64) - weights[0]).max() <= bound
    assert not found[1].any()
    # Where 255 steps of a power of two are the largest weight, it is stored as it is.
    if largest == 255:
        np.testing.assert_array_equal(found[0], [255, 128, 64, 0])


def test_a_weight_that_float16_cannot_hold(tmp_path: Path) -> None:
    documents = csr_array(np.array([[1, 7e4]], dtype=np.float32))
    with pytest.raises(DataError, match="weight 70000 is too large for float16; store weights in"):
        indexed(tmp_path, documents, weights="float16")


def largest_terms(rows: csr_array, terms: int) -> NDArray[np.float32]:
    """The same by sorting each row by itself."""
    kept = rows.toarray()
    for row in kept:
        row[np.argsort(-row, kind="stable")[terms:]] = 0
    return kept


@pytest.mark.parametrize("terms", [1, 3, 8, 1000])
def test_the_largest_terms_are_kept(tmp_path: Path, terms: int) -> None:
    """With ties, and with rows that have fewer terms or none."""
    random = np.random.default_rng(6)
    documents = rational(random, (80, 40), 9)
    documents = vstack([documents, csr_array((3, 40)), rational(random, (30, 40), 2)], "csr")
    queries = vstack([csr_array((1, 40)), rational(random, (6, 40), 12)], "csr")
    sparse = retriever(queries, documents, document_terms=terms, query_terms=terms, shard_texts=30)
    index = sparse.index(names(documents), tmp_path, "made")
    encoded = sparse.encode_queries(names(queries), None, tmp_path)
    kept = largest_terms(documents, terms)
    np.testing.assert_array_equal(index.documents[:].toarray(), kept)
    asked = largest_terms(queries, terms)
    np.testing.assert_array_equal(encoded[:].toarray(), asked)
    assert (asked.any(axis=1) == queries.toarray().any(axis=1)).all()
    found = index.search(encoded.take(np.arange(7)), 20)
    expected = brute_force(csr_array(asked), csr_array(kept), 20)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_weights_that_cannot_be_searched(tmp_path: Path, value: float) -> None:
    """Found before terms are cut, which would drop them."""
    rows = csr_array(np.ones((4, 3), dtype=np.float32))
    rows.data[[4, 8]] = value
    sparse = retriever(rows, rows, document_terms=1, query_terms=1)
    message = "2 of 4 {} embeddings hold NaN, infinity or a weight below 0, first that of '1'"
    with pytest.raises(DataError, match=message.format("document")):
        sparse.index(names(rows), tmp_path, "made")
    with pytest.raises(DataError, match=message.format("query")):
        sparse.encode_queries(names(rows), None, tmp_path)


def test_an_encoder_that_changes_its_vocabulary_is_refused(tmp_path: Path) -> None:
    def embed(texts: Sequence[str], prompt: str | None = None) -> csr_array:
        return csr_array(np.ones((len(texts), 2 + int(texts[0]))))

    sparse = SparseRetriever(embed, embed, "grows", shard_texts=2)
    with pytest.raises(DataError, match=r"embeddings of different vocabularies \[2, 4\]"):
        sparse.index(["0", "1", "2"], tmp_path, "made")


def test_the_forecast_is_of_the_size_of_the_files(tmp_path: Path) -> None:
    documents = real(np.random.default_rng(13), 64, 12)
    forecasts: list[int] = []

    def announce(name: str, forecast) -> None:
        forecasts.append(forecast.bytes)
        assert "64 texts in 500 dimensions (int8)" in str(forecast)

    index = indexed(tmp_path, documents, weights="int8", shard_texts=16, announce=announce)
    size = sum(p.stat().st_size for p in index.documents.folder.glob("*.csr"))
    assert forecasts == [pytest.approx(size, rel=0.1)]
