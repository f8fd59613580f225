"""Against plain Python, and on domains whose wrong positives are known."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.sparse import csr_array

from tdro_lightning.data.characters import normalise
from tdro_lightning.data.example import passage_text
from tdro_lightning.decontamination.shingles import shingles, words
from tdro_lightning.errors import DataError
from tdro_lightning.inspection.matches import EncoderMatcher, LexicalMatcher, Ranks, rank_positives
from tdro_lightning.search.bm25 import BM25, analyse
from tdro_lightning.search.dense import DenseScorer
from tdro_lightning.search.inverted import SparseRetriever
from tests.inspection.made_pairs import made_rows


def ranks_of(rows: list[dict], matcher: LexicalMatcher | EncoderMatcher | None = None) -> Ranks:
    positives = [[passage_text(p) for p in row["positive_passages"]] for row in rows]
    others = [passage_text(p) for row in rows for p in row["negative_passages"]]
    matcher = matcher or LexicalMatcher()
    matcher.fit([*(t for own in positives for t in own), *others])
    return rank_positives(matcher, [row["query"] for row in rows], positives)


def terms(text: str) -> Counter:
    pieces = [piece for word in words(normalise(text)) for piece in shingles(word)]
    return Counter([*analyse(text), *pieces])


def test_all_pairs_are_scored_as_bm25_says() -> None:
    passages = [
        "The dogs run home",
        "a dog is running",
        "",
        "red cars and red bikes",
        "café 日本語",
    ]
    queries = ["running dogs", "Red red car", "日本 café", "nothing"]
    found = LexicalMatcher().all_pairs(queries, passages)
    counted = [terms(passage) for passage in passages]
    mean = sum(c.total() for c in counted) / len(counted)
    for q, query in enumerate(queries):
        for p, own in enumerate(counted):
            expected = 0.0
            for term, times in terms(query).items():
                having = sum(term in one for one in counted)
                rarity = math.log(1 + (len(passages) - having + 0.5) / (having + 0.5))
                length = 0.9 * (1 - 0.4 + 0.4 * own.total() / mean)
                expected += times * rarity * own[term] / (own[term] + length)
            assert found[q, p] == pytest.approx(expected, rel=1e-5)


def test_ranks_are_shares_of_other_rows_positives() -> None:
    """Of several positives none is compared with its own row's, and equal texts count once."""
    rng = np.random.default_rng(0)
    table = {f"t{i}": rng.normal(size=8).astype(np.float32) for i in range(90)}
    queries = [f"q{i}" for i in range(60)]
    table |= {query: rng.normal(size=8).astype(np.float32) for query in queries}
    positives = [[f"t{i}", f"T{i + 20} "] if i % 3 else [f"t{i}"] for i in range(60)]

    def embed(texts):
        return np.stack([table[text.strip().lower()] for text in texts])

    matcher = EncoderMatcher(DenseScorer(embed), DenseScorer(embed))
    matcher.fit([])
    found = rank_positives(matcher, queries, positives)
    known = sorted({normalise(text) for own in positives for text in own})
    scores = {(q, t): float(table[q] @ table[t]) for q in queries for t in known}
    mean = {t: sum(scores[q, t] for q in queries) / len(queries) for t in known}
    expected = []
    for query, own in zip(queries, positives, strict=True):
        mine = {normalise(text) for text in own}
        for text in own:
            score = scores[query, normalise(text)] - mean[normalise(text)]
            others = [scores[query, t] - mean[t] for t in known if t not in mine]
            expected.append(sum(other < score for other in others) / len(others))
    np.testing.assert_allclose(found.ranks, expected, atol=1e-6)
    assert found.judged.all()


@pytest.mark.parametrize("seed", range(3))
def test_a_dirty_domain_is_named_and_a_clean_one_is_not(seed: int) -> None:
    rows, _ = made_rows(seed=seed)
    clean = ranks_of(rows)
    assert clean.verdict == "no sign"
    assert clean.unmatched < 0.05
    rows, wrong = made_rows(swapped=0.2, seed=seed)
    dirty = ranks_of(rows)
    assert dirty.verdict == "mismatched"
    assert dirty.unmatched == pytest.approx(0.2, abs=0.12)
    assert dirty.least_unmatched < dirty.unmatched
    worst = [place + 1 for place in dirty.worst[:10]]
    assert len(wrong.intersection(worst)) >= 9


def test_domains_that_bm25_cannot_judge_are_unclear() -> None:
    """Without a shared word, with too few rows, and with hardly any different positives."""
    crossed = ranks_of(made_rows(language="other")[0])
    assert (crossed.verdict, crossed.unmatched) == ("unclear", None)
    assert not crossed.judged.any()
    few = ranks_of(made_rows(30, swapped=0.2)[0])
    assert (few.verdict, few.unmatched) == ("unclear", None)
    rows, _ = made_rows()
    classes = [
        {**row, "positive_passages": [{"text": f"class {i % 9}"}]} for i, row in enumerate(rows)
    ]
    assert ranks_of(classes).verdict == "unclear"
    one = ranks_of([{**row, "positive_passages": [{"text": "same"}]} for row in rows])
    assert one.verdict == "unclear"


def made_ranks(ranks: np.ndarray) -> Ranks:
    return Ranks(ranks, np.zeros(len(ranks)), np.ones(len(ranks), dtype=bool))


def test_scores_that_separate_nothing_are_unclear() -> None:
    """All ranks alike likely, and ranks that rise slowly to the end: the positives may be fine."""
    assert made_ranks(np.linspace(0, 1, 1000)).verdict == "unclear"
    assert made_ranks(np.linspace(0, 1, 1000) ** 0.4).verdict == "unclear"
    mixed = np.concatenate([np.linspace(0, 1, 200), np.full(800, 0.999)])
    assert made_ranks(mixed).verdict == "mismatched"
    assert made_ranks(mixed).unmatched == pytest.approx(0.2, abs=0.01)


def letters(texts) -> csr_array:
    """How often a text has each letter, without those of `silent`."""
    rows = np.zeros((len(texts), 27), dtype=np.float32)
    for row, text in enumerate(texts):
        for letter in text.lower():
            if "a" <= letter <= "z" and text != "silent":
                rows[row, ord(letter) - 97] += 0.25
    return csr_array(rows)


def test_sparse_embeddings_rank_as_the_same_numbers_do_when_dense() -> None:
    asked: list[str] = []

    def embed(texts, prompt=None):
        asked.extend(texts)
        return letters(texts)

    retriever = SparseRetriever(embed, embed, "letters")
    sparse = EncoderMatcher(retriever.query_scorer(None), retriever.scorer())
    dense_scorer = DenseScorer(lambda texts: letters(texts).toarray())
    rows, _ = made_rows(80, swapped=0.2)
    found, expected = ranks_of(rows, sparse), ranks_of(rows, EncoderMatcher(*[dense_scorer] * 2))
    np.testing.assert_allclose(found.ranks, expected.ranks, atol=1e-6)
    np.testing.assert_allclose(found.lacks, expected.lacks, atol=1e-4)
    assert found.verdict == expected.verdict
    queries, passages = ["abba", "silent", "abba"], ["ba", "zz", "ba"]
    asked.clear()
    products = letters(queries).toarray() @ letters(passages).toarray().T
    np.testing.assert_array_equal(sparse.all_pairs(queries, passages), products)
    np.testing.assert_array_equal(sparse.pairs(queries, passages), products.diagonal())
    assert sorted(asked) == ["abba", "ba", "silent", "zz"], "each is embedded once"
    assert sparse.reads(queries).tolist() == [True, False, True]


def test_sparse_scores_that_are_not_finite_are_refused() -> None:
    def embed(texts, prompt=None):
        return csr_array(np.full((len(texts), 2), np.nan, dtype=np.float32))

    retriever = SparseRetriever(embed, embed, "nothing")
    with pytest.raises(DataError, match="embeddings hold NaN"):
        ranks_of(made_rows(60)[0], EncoderMatcher(retriever.query_scorer(None), retriever.scorer()))


def test_scores_that_are_not_finite_are_refused() -> None:
    def embed(texts):
        return np.full((len(texts), 2), np.nan, dtype=np.float32)

    with pytest.raises(DataError, match="not finite"):
        ranks_of(made_rows(60)[0], EncoderMatcher(DenseScorer(embed), DenseScorer(embed)))


def test_pairs_are_scored_as_the_search_does() -> None:
    texts = ["red stone", "blue river", "red river"]
    matcher = LexicalMatcher()
    matcher.fit(texts)
    queries = ["red", "river", "green"]
    np.testing.assert_array_equal(matcher.pairs(queries, texts), BM25(texts).score(queries, texts))
    assert matcher.reads(["red green", "green yellow red", "", "the"]).tolist() == [
        True, False, False, False,
    ]  # fmt: skip
