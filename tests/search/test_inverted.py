"""Search over an inverted index, against products of whole matrices in float64."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, csr_matrix, vstack

from tdro_lightning.data.example import Passage, Row
from tdro_lightning.distributed.processes import rank
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.benchmark import RetrievalSet
from tdro_lightning.evaluation.evaluate import evaluate
from tdro_lightning.mining.miner import Miner
from tdro_lightning.mining.pool import domain_pool
from tdro_lightning.mining.rule import MiningRule
from tdro_lightning.search.dense import DenseRetriever
from tdro_lightning.search.inverted import InvertedIndex, SparseRetriever, SparseScorer
from tdro_lightning.search.inverted_blocks import merge
from tdro_lightning.search.sparse_statistics import index_statistics
from tests.fixtures.evaluation import in_two_processes
from tests.made_up import WORDS
from tests.mining.rankers import pool_ranker

LARGE_VOCABULARY = 200_000  # more than 16 bits can number


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


@st.composite
def matrices(draw: st.DrawFn) -> tuple[csr_array, csr_array]:
    """Queries and documents over few or many terms; some rows are empty."""
    columns = draw(st.lists(st.integers(0, LARGE_VOCABULARY - 1), min_size=1, max_size=6))
    row = st.dictionaries(st.sampled_from(columns), st.integers(1, 3), max_size=4)

    def matrix(rows: list[dict[int, int]]) -> csr_array:
        places = [(i, column) for i, one in enumerate(rows) for column in one]
        weights = [weight for one in rows for weight in one.values()]
        both = np.array(places, dtype=int).reshape(-1, 2).T
        return csr_array(
            (np.array(weights, dtype=np.float32), tuple(both)), (len(rows), LARGE_VOCABULARY)
        )

    queries = matrix(draw(st.lists(row, min_size=1, max_size=4)))
    return queries, matrix(draw(st.lists(row, min_size=1, max_size=12)))


@settings(max_examples=60, deadline=None)
@given(
    given=matrices(),
    depth=st.integers(1, 15),
    shard=st.integers(1, 12),
    block=st.integers(1, 12),
    weights=st.integers(1, 30),
)
def test_any_matrix_is_searched_like_brute_force(
    given: tuple[csr_array, csr_array], depth: int, shard: int, block: int, weights: int
) -> None:
    queries, documents = given
    limits = {"shard_texts": shard, "block_documents": block, "block_weights": weights}
    with tempfile.TemporaryDirectory() as folder:
        index = indexed(Path(folder), documents, **limits)
        scores, indices = index.search(queries, depth)
    expected, places = brute_force(queries, documents, depth)
    np.testing.assert_array_equal(indices, places)
    np.testing.assert_array_equal(scores, expected)
    assert (scores.dtype, indices.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("depth", [1, 10, 400, 3000])
@pytest.mark.parametrize("terms", [1, 40])
def test_ties_go_to_the_lower_index(tmp_path: Path, depth: int, terms: int) -> None:
    """More documents than a first look for the best of a block takes; of depth 3000 some more."""
    random = np.random.default_rng(0)
    documents = rational(random, (2900, 90), terms)
    queries = rational(random, (12, 90), 9)
    expected, places = brute_force(queries, documents, depth)
    for block in (90, 1451, 10_000):
        index = indexed(tmp_path, documents, block_documents=block, shard_texts=701)
        assert len(index.blocks) == -(-2900 // block)
        scores, indices = index.search(queries, depth)
        np.testing.assert_array_equal(indices, places)
        np.testing.assert_array_equal(scores, expected)


def test_real_weights_give_the_same_bits_however_documents_are_divided(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    documents, queries = real(random, 6000, 60), real(random, 20, 15)
    found = [
        indexed(tmp_path / str(number), documents, **limits).search(queries, 50)
        for number, limits in enumerate(
            [{}, {"block_documents": 999}, {"block_weights": 20_000, "shard_texts": 100}]
        )
    ]
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    exact = (queries.astype(np.float64) @ documents.astype(np.float64).T).toarray()
    scores, indices = found[0]
    np.testing.assert_allclose(scores, np.take_along_axis(exact, indices, axis=1), rtol=1e-6)
    # Whatever is left out is not better than the last that was found.
    np.put_along_axis(exact, indices, -1, axis=1)
    assert (exact.max(axis=1) <= scores[:, -1] * (1 + 1e-6)).all()


def test_a_query_alone_is_searched_as_among_others(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    documents, queries = real(random, 300, 20), real(random, 5, 9)
    index = indexed(tmp_path, documents, block_documents=128)
    together = index.search(queries, 10)
    for row in range(5):
        for one, all_of_them in zip(index.search(queries[[row]], 10), together, strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[row])


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


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
def test_a_pair_has_the_score_of_the_search(tmp_path: Path, weights: str) -> None:
    """To the last bit, whether its text is a document or is embedded."""
    random = np.random.default_rng(3)
    documents, queries = real(random, 200, 30), real(random, 7, 12)
    sparse = retriever(queries, documents, weights=weights, document_terms=20, shard_texts=64)
    encoded = sparse.encode_queries(names(queries), None, tmp_path).take(np.arange(7))
    for position in (None, int, lambda text: int(text) if int(text) % 3 else -1):
        index = sparse.index(names(documents), tmp_path, "made", position)
        scores, indices = index.search(encoded, 50)
        pairs = np.repeat(np.arange(7), 50)
        texts = [str(i) for i in indices.ravel()]
        np.testing.assert_array_equal(index.score(encoded[pairs], texts), scores.ravel())
        index.forget()
    assert index.score(encoded[:0], []).shape == (0,)
    again = SparseScorer(sparse.stored_embeddings).score(encoded[pairs], texts)
    np.testing.assert_array_equal(again, scores.ravel())


def test_texts_are_embedded_once_until_they_are_forgotten() -> None:
    embed = Rows(real(np.random.default_rng(4), 5, 6))
    scorer = SparseScorer(embed, kept=2)
    for asked, embedded in (("01", "01"), ("10", ""), ("123", "23"), ("32", ""), ("1", "1")):
        embed.asked.clear()
        found = scorer.embeddings(list(asked)).toarray()
        np.testing.assert_array_equal(found, embed.rows.toarray()[[*map(int, asked)]])
        assert "".join(embed.asked) == embedded
    scorer.forget()
    embed.asked.clear()
    scorer.embeddings(["1"])
    assert embed.asked == ["1"]


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


def test_fingerprints_and_files_of_other_options(tmp_path: Path) -> None:
    """Each option that changes scores; embeddings of documents do not depend on queries' terms."""
    rows = real(np.random.default_rng(7), 20, 9)
    plain = retriever(rows, rows)
    others = [
        replace(plain, encoder="other"),
        replace(plain, weights="int8"),
        replace(plain, document_terms=3),
        replace(plain, query_terms=3),
    ]
    assert len({one.fingerprint for one in (plain, *others)}) == 5
    assert replace(plain, shard_texts=9, block_documents=2).fingerprint == plain.fingerprint
    for one in (plain, *others):
        one.index(names(rows), tmp_path, "made")
    assert len(list((tmp_path / "documents").iterdir())) == 4
    # Dense embeddings of an encoder of the same name are something else.
    dense = DenseRetriever(
        lambda texts, prompt: rows.toarray(), lambda texts: rows.toarray(), "rows"
    )
    dense.index(names(rows), tmp_path, "made")
    assert len(list((tmp_path / "documents").iterdir())) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "int4"}, "weights must be one of float32, float16, int8, is 'int4'"),
        ({"document_terms": 0}, "document_terms must be at least 1, is 0"),
        ({"query_terms": -1}, "query_terms must be at least 1, is -1"),
        ({"block_documents": 0}, "block_documents must be at least 1, is 0"),
    ],
)
def test_options_outside_their_bounds(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retriever(csr_array((1, 2)), csr_array((1, 2)), **options)


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


def test_queries_that_do_not_fit(tmp_path: Path) -> None:
    index = indexed(tmp_path, csr_array(np.ones((2, 3))))
    with pytest.raises(ValueError, match=r"queries \(1, 4\) and documents \(2, 3\) must be"):
        index.search(csr_array((1, 4)), 1)
    with pytest.raises(ValueError, match="depth must be at least 1, is 0"):
        index.search(csr_array((1, 3)), 0)
    with pytest.raises(DataError, match="a query embedding holds NaN or infinity"):
        index.search(csr_array(np.full((1, 3), np.nan)), 1)


def test_merging_keeps_the_best_of_both() -> None:
    random = np.random.default_rng(8)
    for depth in (1, 5, 300):
        scores = random.integers(0, 40, 5000).astype(np.float32)
        best = np.full(depth, -np.inf, dtype=np.float32)
        indices = np.full(depth, -1)
        for first in range(0, 5000, 1250):
            merge(scores[first : first + 1250], first, best, indices)
        expected = np.argsort(-scores, kind="stable")[:depth]
        np.testing.assert_array_equal(indices, expected)
        np.testing.assert_array_equal(best, scores[expected])


class Fails(Rows):
    """Fails at one of its calls, as a process that is killed would."""

    def __init__(self, rows: csr_array, at: int) -> None:
        super().__init__(rows)
        self.left = at

    def __call__(self, texts: Sequence[str], prompt: str | None = None) -> csr_array:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__call__(texts)


def test_a_run_takes_up_what_an_earlier_one_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents = real(np.random.default_rng(9), 30, 8)
    options = {"shard_texts": 8, "block_documents": 10}
    killed = SparseRetriever(Rows(documents), Fails(documents, 2), "rows", **options)
    with pytest.raises(KeyboardInterrupt):
        killed.index(names(documents), tmp_path, "made")
    embed = Rows(documents)
    sparse = SparseRetriever(embed, embed, "rows", **options)
    index = sparse.index(names(documents), tmp_path, "made")
    assert embed.asked == names(documents)[16:]
    expected = index.search(documents, 5)
    whole = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert sorted(p.name for p in index.blocks[0].path.parent.iterdir()) == [
        f"00000{i}.{kind}" for i in range(3) for kind in ("csc", "json")
    ]
    embed.asked.clear()
    shards = sorted(index.documents.folder.glob("*.csr"))
    assert len(shards) == 4
    shards[0].unlink()
    shards[3].write_bytes(shards[3].read_bytes()[:-1] + b"!")
    index.blocks[0].path.write_bytes(b"")
    index.blocks[1].path.with_suffix(".json").unlink()
    index.blocks[2].path.unlink()
    caplog.clear()
    again = sparse.index(names(documents), tmp_path, "made")
    assert embed.asked == [*names(documents)[:8], *names(documents)[24:]]
    assert caplog.messages[0] == f"{shards[0]}: no such file or folder; made again"
    for path, fault in (
        (shards[3], "is not as it was written"),
        (index.blocks[0].path, "is not as it was written"),
        (index.blocks[1].path, "has no checksum"),
        (index.blocks[2].path, "no such file or folder"),
    ):
        assert f"{path}: {fault}; made again" in caplog.messages
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == whole
    for ours, theirs in zip(again.search(documents, 5), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_damage_after_indexing_ends_the_search(tmp_path: Path) -> None:
    documents = real(np.random.default_rng(10), 30, 8)
    index = indexed(tmp_path, documents, block_documents=10)
    path = index.blocks[1].path
    path.write_bytes(path.read_bytes()[:-4] + b"1234")
    with pytest.raises(DataError, match=r"000001\.csc: is not as it was written"):
        index.search(documents, 5)
    path.unlink()
    with pytest.raises(DataError, match=r"000001\.csc: no such file"):
        index.search(documents, 5)
    path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"000001\.csc: this index has no checksum; run the"):
        index.search(documents, 5)


def test_an_encoder_that_changes_its_vocabulary_is_refused(tmp_path: Path) -> None:
    def embed(texts: Sequence[str], prompt: str | None = None) -> csr_array:
        return csr_array(np.ones((len(texts), 2 + int(texts[0]))))

    sparse = SparseRetriever(embed, embed, "grows", shard_texts=2)
    with pytest.raises(DataError, match=r"embeddings of different vocabularies \[2, 4\]"):
        sparse.index(["0", "1", "2"], tmp_path, "made")


SHARED = real(np.random.default_rng(11), 40, 9)


def work(folder: Path) -> None:
    embed = Rows(SHARED)
    sparse = SparseRetriever(embed, embed, "rows", shard_texts=8, block_documents=16)
    index = sparse.index(names(SHARED), folder / "shared", "made")
    (folder / f"asked-{rank()}").write_text(",".join(embed.asked[::8]))
    scores, indices = index.search(SHARED, 7)
    np.savez(folder / f"found-{rank()}.npz", scores=scores, indices=indices)


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    in_two_processes(work, tmp_path)
    assert (tmp_path / "asked-0").read_text() == "0,16,32"
    assert (tmp_path / "asked-1").read_text() == "8,24"
    alone = indexed(tmp_path / "alone", SHARED, shard_texts=8, block_documents=16)
    expected = alone.search(SHARED, 7)
    for number in range(2):
        found = np.load(tmp_path / f"found-{number}.npz")
        np.testing.assert_array_equal(found["scores"], expected[0])
        np.testing.assert_array_equal(found["indices"], expected[1])
    files = [
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (tmp_path / "alone", tmp_path / "shared")
    ]
    assert files[0] == files[1]


VOCABULARY = {word: number for number, word in enumerate(sorted(WORDS))}


def word_weights(texts: Sequence[str], prompt: str | None = None) -> csr_array:
    """Quarters for each word, so that dense and sparse sums have no rounding; with unit terms."""
    rows = np.zeros((len(texts), len(VOCABULARY) + 1), dtype=np.float32)
    rows[:, -1] = 0.25  # a dense search refuses a vector of zeros
    for row, text in enumerate(texts):
        for word in text.lower().split():
            if word in VOCABULARY:
                rows[row, VOCABULARY[word]] += 1 + VOCABULARY[word] % 3 / 4
    return csr_array(rows)


SPARSE = SparseRetriever(word_weights, word_weights, "words", shard_texts=32, block_documents=25)
DENSE = DenseRetriever(
    lambda texts, prompt: word_weights(texts).toarray(),
    lambda texts: word_weights(texts).toarray(),
    "words",
)


def made_texts(count: int, words: int, seed: int) -> tuple[str, ...]:
    random = np.random.default_rng(seed)
    return tuple(" ".join(random.permutation(WORDS)[:words]) for _ in range(count))


def test_an_evaluation_gives_the_metrics_of_the_dense_vectors(tmp_path: Path) -> None:
    made = RetrievalSet(
        name="made",
        document_ids=tuple(f"d{i}" for i in range(150)),
        documents=made_texts(150, 6, 0),
        query_ids=tuple(f"q{i}" for i in range(20)),
        queries=made_texts(20, 2, 1),
        qrels={f"q{i}": {f"d{7 * i}": 1, f"d{3 * i + 1}": 2} for i in range(20)},
        answers=None,
        prompt="Find the words",
    )
    metrics = evaluate({"s": SPARSE, "d": DENSE}, {"made": lambda: made}, tmp_path)
    sparse, dense = (metrics["retrievers"][label] for label in "sd")
    assert sparse == dense
    assert 0 < sparse["average"]["ndcg@10"] < 1
    per_query = [(tmp_path / f"per_query/{label}/made.json").read_bytes() for label in "sd"]
    assert per_query[0] == per_query[1]
    assert not (tmp_path / "embeddings").exists()


@pytest.mark.parametrize("taught", [False, True])
def test_mining_gives_the_negatives_of_the_dense_vectors(tmp_path: Path, taught: bool) -> None:
    texts = made_texts(120, 5, 2)
    rows = [
        Row(
            query_id=f"q{i}",
            query=query,
            positive_passages=[Passage(docid=f"p{i}", title="", text=texts[i])],
            negative_passages=[
                Passage(docid=f"n{j}", title="", text=texts[j]) for j in range(40, 120)
            ],
        )
        for i, query in enumerate(made_texts(30, 3, 3))
    ]
    pool = domain_pool(rows)
    queries = [row["query"] for row in rows]

    def mine(retriever: SparseRetriever | DenseRetriever, folder: Path) -> object:
        ranker = pool_ranker(retriever, pool, queries, "p", folder)
        rule = MiningRule(4, 15, max_score=3.5)
        miner = Miner(rows, pool, ranker, rule, 0, ranker if taught else None)
        mined, counts = miner.choose(range(30), miner.search(range(30)))
        assert counts["searched"] > 60
        assert counts["skipped_max_score"] > 0
        return mined, counts

    assert mine(SPARSE, tmp_path / "s") == mine(DENSE, tmp_path / "d")


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


def test_the_forecast_is_of_the_size_of_the_files(tmp_path: Path) -> None:
    documents = real(np.random.default_rng(13), 64, 12)
    forecasts: list[int] = []

    def announce(name: str, forecast) -> None:
        forecasts.append(forecast.bytes)
        assert "64 texts in 500 dimensions (int8)" in str(forecast)

    index = indexed(tmp_path, documents, weights="int8", shard_texts=16, announce=announce)
    size = sum(p.stat().st_size for p in index.documents.folder.glob("*.csr"))
    assert forecasts == [pytest.approx(size, rel=0.1)]


@pytest.mark.nightly
def test_twenty_thousand_documents_against_scipy(tmp_path: Path) -> None:
    """The size of a small benchmark, the vocabulary of a large model."""
    random = np.random.default_rng(14)
    documents, queries = (real(random, n, t, 128_256) for n, t in ((20_000, 280), (50, 60)))
    index = indexed(tmp_path, documents)
    scores, indices = index.search(queries, 100)
    exact = (queries @ documents.T).toarray()
    order = np.argsort(-exact, axis=1, kind="stable")[:, :100]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(exact, order, axis=1))
