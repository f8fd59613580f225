"""Training rows without the evaluation's queries and documents, and a list of what was dropped."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tdro_lightning.data.example import Passage, Row, passage_text
from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.decontamination.near_duplicates import METHODS, EvaluationIndex, Match

PARTS = ("query", "positive", "negative")
REASONS = ("query", "no positive left", "no negative left")
ROWS_AT_ONCE = 2048
TEXTS_REMEMBERED = 1 << 21


@dataclass
class Outcome:
    """What was kept and dropped of a domain so far.

    Attributes:
        rows: rows read.
        reasons: dropped rows by reason.
        passages: dropped passages of rows that were kept, by part.
        methods: matching texts by method, each occurrence counted, by its first match.
        sets: per evaluation set the rows in which a part matched it, by part.
        dropped: a line for every text that matched.
    """

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    passages: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    sets: dict[str, Counter[str]] = field(default_factory=dict)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """The counts as JSON."""
        gone = sum(self.reasons.values())
        return {
            "rows": self.rows,
            "kept": self.rows - gone,
            "dropped_rows": {reason: self.reasons[reason] for reason in REASONS},
            "dropped_passages": {part: self.passages[part] for part in PARTS[1:]},
            "methods": {method: self.methods[method] for method in METHODS},
            "sets": {
                name: {part: found[part] for part in PARTS}
                for name, found in sorted(self.sets.items())
            },
        }


def decontaminate(
    rows: Iterable[Row], index: EvaluationIndex, clean: Path, dropped: Path
) -> dict[str, Any]:
    """Write the rows that teach nothing of the evaluation, and those texts that would.

    A row goes where its query matches an evaluation query or document. A passage that matches one
    goes alone, since the rest of its row tells nothing of it; the row goes too where it loses its
    last positive, or its last negative.

    Args:
        rows: the rows of a domain.
        index: the evaluation.
        clean: file for the rows that are kept, in their order.
        dropped: file with a line for every text that matched: `query_id`, `part`, `docid`, `text`,
            `fate` (`row` where the whole row went, else `passage`) and its `matches`.

    Returns:
        Counts as in `Outcome.counts`.
    """
    outcome = Outcome()
    write_rows(clean, _kept(rows, index, outcome))
    write_rows(dropped, outcome.dropped)
    return outcome.counts()


def _kept(rows: Iterable[Row], index: EvaluationIndex, outcome: Outcome) -> Iterator[Row]:
    known: dict[int, tuple[Match, ...]] = {}
    remaining = iter(rows)
    while batch := list(islice(remaining, ROWS_AT_ONCE)):
        if len(known) > TEXTS_REMEMBERED:
            known.clear()
        new = {hash(text): text for row in batch for text in _texts(row)}
        unseen = {key: text for key, text in new.items() if key not in known}
        known.update(zip(unseen, index.find(list(unseen.values())), strict=True))
        for row in batch:
            kept = _cleaned(row, known, outcome)
            if kept is not None:
                yield kept


def _texts(row: Row) -> list[str]:
    passages = [*row["positive_passages"], *row["negative_passages"]]
    return [row["query"], *map(passage_text, passages)]


def _cleaned(row: Row, known: Mapping[int, tuple[Match, ...]], outcome: Outcome) -> Row | None:
    """The row without the passages that match, or None where it must go."""
    outcome.rows += 1
    query = known[hash(row["query"])]
    found = {
        part: [known[hash(passage_text(passage))] for passage in passages]
        for part, passages in _passages(row).items()
    }
    if not query and not any(any(matches) for matches in found.values()):
        return row
    kept = {
        part: [p for p, matches in zip(passages, found[part], strict=True) if not matches]
        for part, passages in _passages(row).items()
    }
    reason = _reason(bool(query), row, kept)
    lines = [_line(row, "query", None, query)] if query else []
    for part, passages in _passages(row).items():
        hits = [(p, m) for p, m in zip(passages, found[part], strict=True) if m]
        lines += [_line(row, part, passage, matches) for passage, matches in hits]
        outcome.passages[part] += 0 if reason else len(hits)
    _count(outcome, lines, reason)
    if reason:
        return None
    return Row(
        query_id=row["query_id"],
        query=row["query"],
        positive_passages=kept["positive"],
        negative_passages=kept["negative"],
    )


def _passages(row: Row) -> dict[str, list[Passage]]:
    return {"positive": row["positive_passages"], "negative": row["negative_passages"]}


def _reason(query: bool, row: Row, kept: Mapping[str, Sequence[Passage]]) -> str | None:
    if query:
        return "query"
    if not kept["positive"]:
        return "no positive left"
    if row["negative_passages"] and not kept["negative"]:
        return "no negative left"
    return None


def _line(
    row: Row, part: str, passage: Passage | None, matches: tuple[Match, ...]
) -> dict[str, Any]:
    return {
        "query_id": row["query_id"],
        "part": part,
        "docid": passage["docid"] if passage else None,
        "text": passage_text(passage) if passage else row["query"],
        "matches": [
            {
                "set": match.text.set,
                "kind": match.text.kind,
                "id": match.text.id,
                "text": match.text.text,
                "method": match.method,
                "distance": match.distance,
            }
            for match in matches
        ],
    }


def _count(outcome: Outcome, lines: Sequence[dict[str, Any]], reason: str | None) -> None:
    if reason:
        outcome.reasons[reason] += 1
    for line in lines:
        outcome.methods[line["matches"][0]["method"]] += 1
        outcome.dropped.append({**line, "fate": "row" if reason else "passage", "reason": reason})
    matched = {(match["set"], line["part"]) for line in lines for match in line["matches"]}
    for name, part in matched:
        outcome.sets.setdefault(name, Counter())[part] += 1
