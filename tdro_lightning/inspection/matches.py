"""Whether positives belong to their queries: each compared with the positives of other rows."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tdro_lightning.data.characters import normalise
from tdro_lightning.decontamination.shingles import shingles, words
from tdro_lightning.errors import DataError
from tdro_lightning.search.bm25 import BM25, K1, B, analyse
from tdro_lightning.search.scorer import TextScorer

Scores = NDArray[np.float32]

LEAST_POSITIVES = 50  # of fewer nothing is said
LEAST_KNOWN = 0.5  # of a query's words in the domain's passages, for BM25 to judge its row
LEAST_JUDGED = 0.5  # of the positives, for BM25 to judge the domain
# A domain is named from this share on, and not above the other: then whatever scores is blind.
# How both were chosen, and what they miss: experiments/data_view.
NAMED_FROM = 0.08
NAMED_TO = 0.5
PARTS = (0.25, 0.5)  # of the ranks, from the worst on, in which an unrelated positive falls
CLEAR = 0.9  # a positive above this share of the others is clearly closer
MOST_BETWEEN = 2.25  # times the unmatched share, as densities, may lie between the middle and there


class Matcher(Protocol):
    """What scores pairs of a query and a passage."""

    def fit(self, passages: Sequence[str]) -> None:
        """Learn the statistics of a domain's passages, before its pairs are scored."""

    def all_pairs(self, queries: Sequence[str], passages: Sequence[str]) -> Scores:
        """Scores [Q, P] of every query with every passage."""

    def pairs(self, queries: Sequence[str], passages: Sequence[str]) -> Scores:
        """Scores [P] of P pairs of a query and a passage."""

    def reads(self, queries: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each query [Q] has anything that distinguishes passages."""


class LexicalMatcher:
    """BM25; every query with every passage by words and pieces of words.

    The pieces let `dir` and `directory`, or two forms of an Arabic word, count as alike, which
    leaves fewer positives without anything in common with their query.
    """

    def fit(self, passages: Sequence[str]) -> None:
        """Index a domain's passages."""
        self._index = BM25(list(passages))
        self._words = {term for passage in passages for term in analyse(passage)}

    def pairs(self, queries: Sequence[str], passages: Sequence[str]) -> Scores:
        """BM25's scores [P]."""
        return self._index.score(queries, passages)

    def all_pairs(self, queries: Sequence[str], passages: Sequence[str]) -> Scores:
        """BM25's scores [Q, P] over words and their pieces, by the statistics of the P passages."""
        numbers: dict[str, int] = {}
        counts = _counts(passages, lambda term: numbers.setdefault(term, len(numbers)))
        asked = _counts(queries, numbers.get)
        shape = len(numbers)
        rows, terms, times = counts
        found = np.bincount(terms, minlength=shape)
        rarity = np.log1p((len(passages) - found + 0.5) / (found + 0.5))
        length = np.bincount(rows, times, minlength=len(passages))
        norm = K1 * (1 - B + B * length / max(length.mean(), 1e-9))
        values = rarity[terms] * times / (times + norm[rows])
        weights = csr_array((values, (rows, terms)), shape=(len(passages), shape))
        queried = csr_array((asked[2], (asked[0], asked[1])), shape=(len(queries), shape))
        return (queried @ weights.T).toarray().astype(np.float32)

    def reads(self, queries: Sequence[str]) -> NDArray[np.bool_]:
        """Whether half of a query's words occur in the domain's passages at all.

        In a domain of queries in one language and passages in another they do not.
        """
        terms = [set(analyse(query)) for query in queries]
        return np.array([len(t & self._words) >= max(LEAST_KNOWN * len(t), 1) for t in terms])


class EncoderMatcher:
    """Inner products of an encoder's embeddings, dense or sparse.

    Args:
        queries: embeds texts as queries.
        passages: embeds texts as passages, and multiplies.
    """

    def __init__(self, queries: TextScorer, passages: TextScorer) -> None:
        self._queries, self._passages = queries, passages

    def fit(self, passages: Sequence[str]) -> None:
        """Forget the embeddings of the domain before."""
        self._queries.forget()
        self._passages.forget()

    def all_pairs(self, queries: Sequence[str], passages: Sequence[str]) -> Scores:
        """Inner products [Q, P]."""
        asked, found = _embedded(self._queries, queries), _embedded(self._passages, passages)
        return self._passages.all_products(asked, found)

    def pairs(self, queries: Sequence[str], passages: Sequence[str]) -> Scores:
        """Inner products [P]."""
        return self._passages.score(_embedded(self._queries, queries), passages)

    def reads(self, queries: Sequence[str]) -> NDArray[np.bool_]:
        """It reads a text that has any value: a sparse embedding may have no active term."""
        return np.ravel(abs(_embedded(self._queries, queries)).sum(axis=1)) > 0


@dataclass(frozen=True)
class Ranks:
    """How N positives stand against the positives of other rows, for their own queries.

    Attributes:
        ranks: [N] share of the others that a positive scores above, from 0 to 1; equal scores
            count half. Of an unrelated positive it is anywhere, of a related one near 1.
        lacks: [N] by how much another row's positive scores above it, at most.
        judged: [N] whether the scores can say anything of its query.
    """

    ranks: NDArray[np.float64]
    lacks: NDArray[np.float64]
    judged: NDArray[np.bool_]

    @cached_property
    def unmatched(self) -> float | None:
        """Estimated share of positives that are no closer to their query than others'.

        None where too few can be judged. An unrelated positive falls into the worst quarter of the
        ranks with chance 1/4, and into the worse half with chance 1/2; the smaller of the two
        shares that follow is taken, since weak scores leave related positives below the middle
        more often than at the end.
        """
        return self._estimate(0) if self._enough else None

    @cached_property
    def least_unmatched(self) -> float | None:
        """The same, less a standard error of the counts."""
        return self._estimate(1) if self._enough else None

    @property
    def verdict(self) -> str:
        """`no sign`, `mismatched` where positives seem to belong to other queries, or `unclear`.

        `unclear`, where the scores rank many positives above the middle and not clearly above the
        others: they may leave as many related ones below it.
        """
        share = self.least_unmatched
        if share is None or share > NAMED_TO:
            return "unclear"
        if share < NAMED_FROM:
            return "no sign"
        ranks = self.ranks[self.judged]
        between = np.mean((ranks >= PARTS[-1]) & (ranks < CLEAR)) / (CLEAR - PARTS[-1])
        return "mismatched" if between <= MOST_BETWEEN * self._estimate(0) else "unclear"

    @property
    def worst(self) -> list[int]:
        """Places of the positives, those first that another row's positive beats by most."""
        low = self.judged & (self.ranks < PARTS[-1])
        return np.lexsort((-self.lacks, ~low)).tolist()

    @property
    def _enough(self) -> bool:
        count = int(self.judged.sum())
        return count >= max(LEAST_POSITIVES, LEAST_JUDGED * len(self.judged))

    def _estimate(self, errors: int) -> float:
        ranks = self.ranks[self.judged]
        shares = []
        for part in PARTS:
            count = int(np.sum(ranks < part))
            shares.append((count - errors * count**0.5) / (part * len(ranks)))
        return float(min(1.0, *shares))


def rank_positives(
    matcher: Matcher, queries: Sequence[str], positives: Sequence[Sequence[str]]
) -> Ranks:
    """Compare the positives of rows with those of the other rows.

    What a passage scores on average over the queries is taken off its scores: a long or general
    one would else beat the positives of many rows.

    Args:
        matcher: that has seen the domain's passages.
        queries: of the rows.
        positives: of each row, at least one; all of them in order are the N of the result.

    Raises:
        DataError: a score is NaN or infinite.
    """
    groups = [[normalise(text) for text in own] for own in positives]
    places: dict[str, int] = {}
    for text in (text for own in groups for text in own):
        places.setdefault(text, len(places))
    originals = {normalise(t): t for own in reversed(positives) for t in reversed(own)}
    scores = matcher.all_pairs(queries, [originals[text] for text in places])
    if not np.isfinite(scores).all():
        raise DataError("a score of a query and a positive is not finite")
    scores -= scores.mean(axis=0)
    ranks, lacks = [], []
    for row, own in enumerate(groups):
        mine = [places[text] for text in own]
        others = np.delete(scores[row], mine)
        for place in mine:
            score = scores[row, place]
            above = np.sum(others < score) + 0.5 * np.sum(others == score)
            ranks.append(above / len(others) if len(others) else 1.0)
            lacks.append(others.max() - score if len(others) else 0.0)
    judged = np.repeat(matcher.reads(queries), [len(own) for own in groups])
    if len(places) < LEAST_POSITIVES:
        judged[:] = False
    return Ranks(np.array(ranks), np.array(lacks), judged)


def _embedded(scorer: TextScorer, texts: Sequence[str]) -> Any:
    """Embeddings of texts, equal ones among them; those are embedded once."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    return scorer.embeddings(list(rows))[[rows[text] for text in texts]]


def _counts(
    texts: Sequence[str], number: Callable[[str], int | None]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Text, term and times of each term of the texts that has a number."""
    found: list[tuple[int, int, int]] = []
    for i, text in enumerate(texts):
        pieces = (piece for word in words(normalise(text)) for piece in shingles(word))
        terms = Counter(number(term) for term in [*analyse(text), *pieces])
        found += [(i, term, times) for term, times in terms.items() if term is not None]
    table = np.array(found, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]
