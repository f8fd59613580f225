"""Search over an inverted index, against products of whole matrices in float64."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from tdro_lightning.data.example import Passage, Row
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.benchmark import RetrievalSet
from tdro_lightning.evaluation.evaluate import evaluate
from tdro_lightning.mining.miner import Miner
from tdro_lightning.mining.pool import domain_pool
from tdro_lightning.mining.rule import MiningRule
from tdro_lightning.search.dense import DenseRetriever
from tdro_lightning.search.inverted import SparseRetriever, SparseScorer
from tests.made_up import WORDS
from tests.mining.rankers import pool_ranker
from tests.search.sparse_rows import Rows, brute_force, indexed, names, rational, real, retriever

LARGE_VOCABULARY = 200_000  # more than 16 bits can number


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


def test_a_query_alone_is_searched_as_among_others(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    documents, queries = real(random, 300, 20), real(random, 5, 9)
    index = indexed(tmp_path, documents, block_documents=128)
    together = index.search(queries, 10)
    for row in range(5):
        for one, all_of_them in zip(index.search(queries[[row]], 10), together, strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[row])


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


def test_queries_that_do_not_fit(tmp_path: Path) -> None:
    index = indexed(tmp_path, csr_array(np.ones((2, 3))))
    with pytest.raises(ValueError, match=r"queries \(1, 4\) and documents \(2, 3\) must be"):
        index.search(csr_array((1, 4)), 1)
    with pytest.raises(ValueError, match="depth must be at least 1, is 0"):
        index.search(csr_array((1, 3)), 0)
    with pytest.raises(DataError, match="a query embedding holds NaN or infinity"):
        index.search(csr_array(np.full((1, 3), np.nan)), 1)


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
