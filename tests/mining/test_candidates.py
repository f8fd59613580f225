from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tdro_lightning.data.example import Passage, Row
from tdro_lightning.errors import DataError
from tdro_lightning.mining.pool import PairScorer, Pool, PoolRanker, domain_pool, index_pool
from tdro_lightning.models.cross_encoder import load_cross_encoder
from tdro_lightning.search.bm25 import BM25
from tdro_lightning.search.dense import DenseRetriever, DenseScorer
from tdro_lightning.search.ivf import IVFRetriever
from tests.made_up import WORDS, cross_encoder_model
from tests.mining.rankers import bm25_ranker

QUERIES = [f"{a} {b} {c}" for a, b, c in zip(WORDS, WORDS[3:], WORDS[7:], strict=False)]


def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors that depend on each text alone."""
    made = [np.random.default_rng(list(text.encode())).standard_normal(12) for text in texts]
    return np.array([v / np.linalg.norm(v) for v in made], dtype=np.float32)


class Counted:
    """Embeddings; it keeps what it was asked for."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str], prompt: str | None = None) -> NDArray[np.float32]:
        self.texts += texts
        return vectors([f"{prompt}{text}" if prompt else text for text in texts])


@pytest.fixture(scope="module")
def pool() -> Pool:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.permutation(WORDS)[:5]) for _ in range(300)]
    passages = [Passage(docid="", title="", text=text) for text in texts]
    return domain_pool(
        [Row(query_id="", query="", positive_passages=passages, negative_passages=[])]
    )


@pytest.mark.parametrize("kind", [DenseRetriever, IVFRetriever])
def test_a_dense_ranker_searches_and_scores_by_inner_products(
    tmp_path: Path, pool: Pool, kind: type[DenseRetriever]
) -> None:
    embed = Counted()
    dense = kind(embed, embed, "one", shard_texts=64)
    index = index_pool(dense, pool, tmp_path / "pool")
    ranker = PoolRanker(index, dense.encode_queries(QUERIES, "p", tmp_path / "domain"))
    queries = vectors([f"p{query}" for query in QUERIES])
    exact = queries @ vectors(list(pool.texts)).T
    rows = [5, 0, 3]
    scores, places = ranker.search(rows, 20)
    if kind is IVFRetriever:
        assert (places >= -1).all()
        assert len(list((tmp_path / "pool").glob("*.ivf"))) == 1
    else:
        np.testing.assert_array_equal(places, np.argsort(-exact[rows], axis=1)[:, :20])
        np.testing.assert_allclose(scores, -np.sort(-exact[rows], axis=1)[:, :20], atol=1e-6)
    embed.texts.clear()
    asked = [(5, pool.texts[7]), (0, "not in it"), (0, pool.texts[7].upper()), (3, "not in it")]
    scores = ranker.score([row for row, _ in asked], [text for _, text in asked])
    expected = [exact[5, 7], queries[0] @ vectors(["not in it"])[0], exact[0, 7]]
    expected += [queries[3] @ vectors(["not in it"])[0]]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert embed.texts == ["not in it"]


def test_embeddings_and_index_are_taken_over(tmp_path: Path, pool: Pool) -> None:
    folder = tmp_path / "pool"
    index_pool(IVFRetriever(vectors, Counted(), "one"), pool, folder)
    again = Counted()
    (index,) = folder.glob("*.ivf")
    content = index.read_bytes()
    index_pool(IVFRetriever(vectors, again, "one"), pool, folder)
    assert again.texts == []
    assert index.read_bytes() == content
    index_pool(IVFRetriever(vectors, again, "two"), pool, folder)
    assert again.texts == list(pool.texts)
    assert len(list(folder.glob("*.ivf"))) == 2  # the other encoder's is not mistaken for it


def test_without_a_pool_texts_are_embedded_when_asked_for(tmp_path: Path) -> None:
    embed = Counted()
    queries = DenseRetriever(embed, embed, "one").encode_queries(QUERIES, None, tmp_path)
    scorer = PairScorer(DenseScorer(embed), queries)
    embed.texts.clear()
    scores = scorer.score([1, 1, 2], ["a", "b", "a"])
    expected_queries, texts = vectors(QUERIES), vectors(["a", "b"])
    expected = [expected_queries[row] @ texts[text] for row, text in ((1, 0), (1, 1), (2, 0))]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert embed.texts == ["a", "b"]


def test_the_latest_vectors_are_kept() -> None:
    embed = Counted()
    scorer = DenseScorer(embed, kept=2)
    for asked, embedded in (("ab", "ab"), ("ba", ""), ("bcd", "cd"), ("dc", ""), ("b", "b")):
        embed.texts.clear()
        np.testing.assert_array_equal(scorer.embeddings(list(asked)), vectors(list(asked)))
        assert "".join(embed.texts) == embedded
    scorer.forget()
    embed.texts.clear()
    scorer.embeddings(["b"])
    assert embed.texts == ["b"]


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    def broken(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.full((len(texts), 12), np.nan, dtype=np.float32)

    retriever = DenseRetriever(Counted(), broken, "one")
    scorer = PairScorer(DenseScorer(broken), retriever.encode_queries(QUERIES, None, tmp_path))
    with pytest.raises(DataError, match="2 of 2 scores are not finite"):
        scorer.score([0, 1], ["a", "b"])


def test_the_lexical_ranker_is_bm25(pool: Pool) -> None:
    ranker = bm25_ranker(pool, QUERIES)
    index = BM25(pool.texts)
    for ours, theirs in zip(
        ranker.search([2, 1], 9), index.search([QUERIES[2], QUERIES[1]], 9), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    scores, places = index.search(QUERIES, 9)
    rows = [row for row in range(len(QUERIES)) for _ in range(9)]
    paired = ranker.score(rows, [pool.texts[place] for place in places.flatten()])
    np.testing.assert_allclose(paired.reshape(-1, 9), scores, rtol=1e-5)
    assert ranker.score([], []).shape == (0,)


def test_a_cross_encoder_reads_the_bare_query(tmp_path: Path) -> None:
    model = load_cross_encoder(cross_encoder_model(tmp_path / "model"), max_tokens=32)
    scores = PairScorer(model, np.array(QUERIES, dtype=object)).score([3, 0], ["a", "b"])
    np.testing.assert_array_equal(scores, model.score([QUERIES[3], QUERIES[0]], ["a", "b"]))
