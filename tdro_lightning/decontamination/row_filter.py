"""Training rows without the evaluation's queries and documents, and a list of what was dropped."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tdro_lightning.data.example import Passage, Row, passage_text
from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.decontamination.evaluation_index import METHODS, EvaluationIndex, Match

PARTS = ("query", "positive", "negative")
REASONS = ("query", "no positive left", "no negative left")
ROWS_AT_ONCE = 2048
TEXTS_REMEMBERED = 1 << 21


@dataclass
class FilterCounts:
    """What was kept and dropped of a domain so far.

    Attributes:
        rows: rows read.
        reasons: dropped rows by reason.
        passages: dropped passages of rows that were kept, by part.
        methods: matching texts by method, each occurrence counted, by its first match.
        sets: rows in which a part matched an evaluation set, by set and part.
        dropped: a line for every text that matched.
    """

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    passages: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    sets: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The counts as JSON."""
        gone = sum(self.reasons.values())
        return {
            "rows": self.rows,
            "kept": self.rows - gone,
            "dropped_rows": {reason: self.reasons[reason] for reason in REASONS},
            "dropped_passages": {part: self.passages[part] for part in PARTS[1:]},
            "methods": {method: self.methods[method] for method in METHODS},
            "sets": {
                name: {part: self.sets[name, part] for part in PARTS}
                for name in sorted({name for name, _ in self.sets})
            },
        }


def filter_rows(
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
        Counts as in `FilterCounts.summary`.
    """
    counts = FilterCounts()
    write_rows(clean, _kept(rows, index, counts))
    write_rows(dropped, counts.dropped)
    return counts.summary()


def _kept(rows: Iterable[Row], index: EvaluationIndex, counts: FilterCounts) -> Iterator[Row]:
    known: dict[int, tuple[Match, ...]] = {}
    remaining = iter(rows)
    while batch := list(islice(remaining, ROWS_AT_ONCE)):
        if len(known) > TEXTS_REMEMBERED:
            known.clear()
        texts = [row["query"] for row in batch]
        for row in batch:
            texts += map(passage_text, [*row["positive_passages"], *row["negative_passages"]])
        unseen = {hash(text): text for text in texts if hash(text) not in known}
        known.update(zip(unseen, index.find(list(unseen.values())), strict=True))
        yield from filter(None, (_filter_row(row, known, counts) for row in batch))


def _filter_row(
    row: Row, known: Mapping[int, tuple[Match, ...]], counts: FilterCounts
) -> Row | None:
    """The row without the passages that match, or None where it must go."""
    counts.rows += 1
    query = known[hash(row["query"])]
    lines = [_line(row, "query", None, query)] if query else []
    kept: dict[str, list[Passage]] = {}
    given = {"positive": row["positive_passages"], "negative": row["negative_passages"]}
    for part, passages in given.items():
        pairs = [(passage, known[hash(passage_text(passage))]) for passage in passages]
        lines += [_line(row, part, passage, match) for passage, match in pairs if match]
        kept[part] = [passage for passage, match in pairs if not match]
    if not lines:
        return row
    reason = _reason(bool(query), row, kept)
    if reason:
        counts.reasons[reason] += 1
    else:
        counts.passages.update(line["part"] for line in lines)
    for line in lines:
        counts.methods[line["matches"][0]["method"]] += 1
        counts.dropped.append({**line, "fate": "row" if reason else "passage", "reason": reason})
    counts.sets.update({(m["set"], line["part"]) for line in lines for m in line["matches"]})
    if reason:
        return None
    return {**row, "positive_passages": kept["positive"], "negative_passages": kept["negative"]}


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
            {**asdict(match.text), "method": match.method, "distance": match.distance}
            for match in matches
        ],
    }
