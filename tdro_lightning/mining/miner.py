"""Hard negatives: what a search finds for a query besides its positives."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from tdro_lightning.data.characters import normalise
from tdro_lightning.data.example import Passage, Row, passage_text
from tdro_lightning.errors import DataError
from tdro_lightning.mining.near_duplicates import are_near_duplicates
from tdro_lightning.mining.pool import PairScorer, Pool, PoolRanker
from tdro_lightning.mining.rule import MiningRule
from tdro_lightning.search.retriever import Hits

ROWS_AT_ONCE = 256  # so that a slow teacher's progress is logged
DRAWN_AT_ONCE = 1024
SHUFFLED = 1 << 20  # of a larger pool a whole permutation would cost more than what is drawn

logger = logging.getLogger(__name__)


@dataclass
class QueryPositives:
    """The positives of a query in all rows: their places in the pool, and their texts."""

    places: set[int] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)


@dataclass
class Draft:
    """A row whose negatives are being chosen.

    Attributes:
        number: of the row in its domain.
        query: places of the query's own text.
        candidates: places in the rank window, best first.
        scores: of places, by the teacher, or by the ranker where there is none.
        positives: scores of the row's positives, where they are needed.
    """

    number: int
    known: QueryPositives
    query: set[int]
    candidates: list[int]
    scores: dict[int, float]
    positives: list[float] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)


class Miner:
    """Chooses the negatives of a domain's rows.

    Candidates are the hits in the rule's rank window, best first, without the positives of any row
    with this query, the query's own text, near-duplicates of a positive, and what the rule's limits
    forbid. Rows left with too few are filled with random passages under the same exclusions. What a
    row gets depends neither on the order of the rows nor on which of them are mined together.

    Args:
        rows: all rows of the domain.
        pool: where negatives come from.
        ranker: searches the pool.
        rule: rank window and limits.
        seed: of the random passages.
        teacher: what the limits compare, and what `score` of each passage is then; None compares
            the ranker's scores and writes none.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        pool: Pool,
        ranker: PoolRanker,
        rule: MiningRule,
        seed: int,
        teacher: PairScorer | None = None,
    ) -> None:
        self.rows, self.pool, self.ranker = rows, pool, ranker
        self.rule, self.seed, self.teacher = rule, seed, teacher
        self._scorer = ranker if teacher is None else teacher
        self.known = _positives_by_query(rows, pool)

    def search(self, numbers: Sequence[int]) -> Hits:
        """The hits of some rows, scores and places [R, depth]."""
        return self.ranker.search(numbers, self.rule.depth)

    def choose(self, numbers: Sequence[int], hits: Hits) -> tuple[list[Row], Counter[str]]:
        """Mine some rows.

        Args:
            numbers: of R rows.
            hits: as `search` returns them.

        Returns:
            The rows with mined negatives, in the order of `numbers`, and how these came about:
            `rows`, of which `short` have fewer negatives than wanted and `without` have none and
            are left out; negatives `searched` and `random`; and the passages passed over, with
            names that begin with `skipped_`.

        Raises:
            DataError: a row's pool is too small for the negatives wanted.
        """
        counts = Counter({"rows": 0, "searched": 0, "random": 0})
        mined: list[Row] = []
        # An interrupted run and one of several processes mine other parts before this one.
        self._scorer.forget()
        for start in range(0, len(numbers), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            drafts = [
                self._draft(number, scores.tolist(), places.tolist(), counts)
                for number, scores, places in zip(
                    numbers[part], hits[0][part], hits[1][part], strict=True
                )
            ]
            if self.rule.compares:
                self._score_positives(drafts)
            self._offer(drafts, [draft.candidates for draft in drafts], counts)
            counts["searched"] += sum(len(draft.chosen) for draft in drafts)
            self._fill([d for d in drafts if len(d.chosen) < self.rule.negatives], counts)
            counts["rows"] += len(drafts)
            kept = [draft for draft in drafts if draft.chosen]
            if self.teacher is not None:
                self._score(kept, [draft.chosen for draft in kept])
                self._score_positives([draft for draft in kept if not draft.positives])
            mined += map(self._row, kept)
            logger.info("%d of %d rows mined", start + len(drafts), len(numbers))
        return mined, counts

    def _draft(
        self, number: int, scores: list[float], places: list[int], counts: Counter[str]
    ) -> Draft:
        key = normalise(self.rows[number]["query"])
        hits = [hit for hit in zip(places, scores, strict=True) if hit[0] >= 0]
        counts["skipped_rank"] += min(self.rule.skip, len(hits))
        window = hits[self.rule.skip :]
        return Draft(
            number,
            self.known[key],
            set(self.pool.by_text[key]),
            [place for place, _ in window],
            dict(window) if self.teacher is None else {},
        )

    def _fill(self, drafts: list[Draft], counts: Counter[str]) -> None:
        """Add random passages; where scores decide, at most as many are tried as hits were."""
        before = sum(len(draft.chosen) for draft in drafts)
        if self.rule.has_limits:
            tried = [[*islice(self._random(draft), self.rule.depth)] for draft in drafts]
            self._offer(drafts, tried, Counter())
        else:
            for draft in drafts:
                self._take(draft, self._random(draft), Counter())
        counts["random"] += sum(len(draft.chosen) for draft in drafts) - before
        for draft in (d for d in drafts if len(d.chosen) < self.rule.negatives):
            if not self.rule.has_limits:
                raise DataError(
                    f"query_id {self.rows[draft.number]['query_id']!r}: {self.rule.negatives} "
                    f"negatives wanted, but only {len(draft.chosen)} of the "
                    f"{len(self.pool.texts)} passages in the pool can be one; "
                    "lower mine.negatives or add passages"
                )
            counts["short" if draft.chosen else "without"] += 1

    def _offer(
        self, drafts: Sequence[Draft], places: Sequence[list[int]], counts: Counter[str]
    ) -> None:
        """Take from each draft's places, a few at a time, since a teacher's scores are dear."""
        wanted = self.rule.negatives
        left = list(zip(drafts, places, strict=True))
        for start in range(0, self.rule.depth, wanted):
            left = [pair for pair in left if len(pair[0].chosen) < wanted and pair[1][start:]]
            offered = [own[start : start + wanted] for _, own in left]
            if self.rule.has_limits:
                self._score([draft for draft, _ in left], offered)
            for (draft, _), some in zip(left, offered, strict=True):
                self._take(draft, some, counts)

    def _take(self, draft: Draft, places: Iterable[int], counts: Counter[str]) -> None:
        """Choose the first places that may be negatives; the others before them are counted."""
        known = draft.known
        for place in places:
            if len(draft.chosen) == self.rule.negatives:
                break
            if place in known.places:
                counts["skipped_positive"] += 1
            elif place in draft.query:
                counts["skipped_query"] += 1
            elif place in draft.chosen:
                continue
            elif self.rule.has_limits and (
                limit := self.rule.excess(draft.scores[place], draft.positives)
            ):
                counts[f"skipped_{limit}"] += 1
            elif any(are_near_duplicates(self.pool.texts[place], text) for text in known.texts):
                counts["skipped_near_duplicate"] += 1
            else:
                draft.chosen.append(place)

    def _random(self, draft: Draft) -> Iterator[int]:
        """Places in random order, but those that cannot be negatives whatever they score."""
        never = draft.known.places | draft.query
        places = _shuffled(self.rows[draft.number], len(self.pool.texts), self.seed)
        return (place for place in places if place not in never)

    def _score_positives(self, drafts: list[Draft]) -> None:
        texts = [
            [passage_text(p) for p in self.rows[d.number]["positive_passages"]] for d in drafts
        ]
        for draft, found in zip(drafts, self._pair_scores(drafts, texts), strict=True):
            draft.positives = found

    def _score(self, drafts: list[Draft], places: Sequence[Iterable[int]]) -> None:
        """Add to the drafts' scores what is missing and no known positive's."""
        missing = [
            [p for p in dict.fromkeys(own) if p not in draft.scores and p not in draft.known.places]
            for draft, own in zip(drafts, places, strict=True)
        ]
        texts = [[self.pool.texts[place] for place in wanted] for wanted in missing]
        scores = self._pair_scores(drafts, texts)
        for draft, wanted, found in zip(drafts, missing, scores, strict=True):
            draft.scores.update(zip(wanted, found, strict=True))

    def _pair_scores(self, drafts: list[Draft], texts: list[list[str]]) -> list[list[float]]:
        """Scores of each draft's texts."""
        numbers = [d.number for d, own in zip(drafts, texts, strict=True) for _ in own]
        if not numbers:
            return [[] for _ in texts]
        flat = iter(self._scorer.score(numbers, [*chain.from_iterable(texts)]).tolist())
        return [list(islice(flat, len(own))) for own in texts]

    def _row(self, draft: Draft) -> Row:
        row = self.rows[draft.number]
        negatives = [self.pool.passages[place] for place in draft.chosen]
        if self.teacher is None:
            return {**row, "negative_passages": negatives}
        scores = [draft.scores[place] for place in draft.chosen]
        return {
            **row,
            "positive_passages": _with_scores(row["positive_passages"], draft.positives),
            "negative_passages": _with_scores(negatives, scores),
        }


def _positives_by_query(rows: Sequence[Row], pool: Pool) -> dict[str, QueryPositives]:
    """The positives of each query, by its normalised text."""
    by_query: dict[str, QueryPositives] = {}
    for row in rows:
        known = by_query.setdefault(normalise(row["query"]), QueryPositives())
        for passage in row["positive_passages"]:
            places = pool.places(passage)
            known.places |= places
            known.texts |= {passage_text(passage), *(pool.texts[place] for place in places)}
    return by_query


def _with_scores(passages: Sequence[Passage], scores: Sequence[float]) -> list[Passage]:
    return [Passage(**(p | {"score": s})) for p, s in zip(passages, scores, strict=True)]


def _shuffled(row: Row, size: int, seed: int) -> Iterator[int]:
    """Places in random order; of a large pool some repeat and others never come up."""
    name = hashlib.sha256(f"{row['query_id']}\0{row['query']}".encode()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(name[:8], "big")])
    if size <= SHUFFLED:
        return map(int, generator.permutation(size))
    draws = (generator.integers(size, size=DRAWN_AT_ONCE) for _ in range(size // DRAWN_AT_ONCE))
    return map(int, chain.from_iterable(draws))
