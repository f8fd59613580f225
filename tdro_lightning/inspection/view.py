"""A domain as people must see it before they give it more weight: as plain values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np

from tdro_lightning.data.characters import normalise
from tdro_lightning.errors import DataError
from tdro_lightning.inspection.matches import Matcher, Ranks, Scores, rank_positives
from tdro_lightning.inspection.sample import DomainSample, SampledRow
from tdro_lightning.inspection.texts import lengths, near_copies, scripts

WORST_ROWS = 10
SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class Pairs:
    """Rows with the scores of their pairs: [positives] and [negatives] of all rows, in order."""

    rows: Sequence[SampledRow]
    positives: Scores
    negatives: Scores

    def below(self) -> tuple[int, int]:
        """Positives that one of their row's negatives scores above, and all in rows with some."""
        below = total = start = end = 0
        for row in self.rows:
            own = self.positives[start : start + len(row.positives)]
            others = self.negatives[end : end + len(row.negatives)]
            start, end = start + len(own), end + len(others)
            if len(others):
                below, total = below + int(np.sum(own < others.max())), total + len(own)
        return below, total

    def best_negative(self, place: int) -> str | None:
        """The negative that scores highest for the query of a row; None where it has none."""
        before = sum(len(row.negatives) for row in self.rows[:place])
        texts = self.rows[place].negatives
        own = self.negatives[before : before + len(texts)]
        return texts[int(own.argmax())] if len(texts) else None


def domain_view(sample: DomainSample, matcher: Matcher) -> dict[str, Any]:
    """All that is seen of a domain's rows, as JSON; empty where none can be read.

    Args:
        sample: of the domain.
        matcher: what scores pairs of a query and a passage.

    Raises:
        DataError: a score is NaN or infinite.
    """
    rows = sample.rows
    if not rows:
        return {}
    queries = [row.query for row in rows]
    positives = [text for row in rows for text in row.positives]
    negatives = [text for row in rows for text in row.negatives]
    batch = sample.batch
    matcher.fit(list(dict.fromkeys([*positives, *negatives])))
    pairs = _score(rows, matcher)
    ranks = rank_positives(matcher, queries, [row.positives for row in rows])
    below, compared = pairs.below()
    return {
        "looked_at": len(rows),
        "characters": {
            "query": lengths(queries),
            "positive": lengths(positives),
            "negative": lengths(negatives),
        },
        "scripts": {"query": scripts(queries), "passage": scripts(chain(positives, negatives))},
        "repeated": {
            "query": len(queries) - len(set(map(normalise, queries))),
            "positive": len(positives) - len(set(map(normalise, positives))),
        },
        "near_copies": {"query": near_copies(queries), "positive": near_copies(positives)},
        "batch": asdict(batch),
        "below_a_negative": {"positives": compared, "below": below},
        "mismatch": {
            "positives": len(ranks.ranks),
            "judged": int(ranks.judged.sum()),
            "share": _rounded(ranks.unmatched),
            "least": _rounded(ranks.least_unmatched),
            "verdict": ranks.verdict,
        },
        "worst": _worst(pairs, ranks),
    }


def _score(rows: Sequence[SampledRow], matcher: Matcher) -> Pairs:
    scores = []
    for part in ("positives", "negatives"):
        texts = [(row.query, text) for row in rows for text in getattr(row, part)]
        found = matcher.pairs([q for q, _ in texts], [t for _, t in texts]) if texts else ()
        scores.append(np.asarray(found, dtype=np.float32))
        if broken := int(np.sum(~np.isfinite(scores[-1]))):
            raise DataError(f"{broken} of {len(texts)} scores of {part} are not finite")
    return Pairs(rows, *scores)


def _worst(pairs: Pairs, ranks: Ranks) -> list[dict[str, Any]]:
    """The rows whose positive other rows' positives beat by most, with their best negative."""
    places = [
        (row, text) for row, one in enumerate(pairs.rows) for text in range(len(one.positives))
    ]
    worst: dict[int, dict[str, Any]] = {}
    for place in ranks.worst:
        number, text = places[place]
        row, negative = pairs.rows[number], pairs.best_negative(number)
        worst.setdefault(
            number,
            {
                "line": row.line,
                "query": first_characters(row.query),
                "positive": first_characters(row.positives[text]),
                "negative": None if negative is None else first_characters(negative),
                "rank": round(float(ranks.ranks[place]), 4),
            },
        )
        if len(worst) == WORST_ROWS:
            break
    return list(worst.values())


def first_characters(text: str) -> str:
    """The first characters of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
