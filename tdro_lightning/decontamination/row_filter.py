"""Training rows without the evaluation's queries and documents, and a list of what was dropped."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
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


def filter_rows(
    rows: Iterable[Row], index: EvaluationIndex, clean: Path, dropped: Path
) -> dict[str, Any]:
    """Write the rows that teach nothing of the evaluation, and those texts that would.

    A row is dropped where its query matches an evaluation query or document. A passage that matches
    one is dropped alone, and its row too where that was its last positive or last negative.

    Args:
        rows: the rows of a domain.
        index: the evaluation.
        clean: file for the rows that are kept, in their order.
        dropped: file with a line for every text that matched: `query_id`, `part`, `docid`, `text`,
            `fate` (`row` where the whole row was dropped, else `passage`) and its `matches`.

    Returns:
        `rows` read and `kept`; `dropped_rows` by reason; `dropped_passages` of rows that were kept,
        by part; texts that matched by the method of their first match (`methods`); and by
        evaluation set the rows in which a part matched it (`sets`).
    """
    counts = Counter[tuple[str, ...]]()
    lines: list[dict[str, Any]] = []
    write_rows(clean, _kept(rows, index, counts, lines))
    write_rows(dropped, lines)
    gone = {reason: counts["dropped", reason] for reason in REASONS}
    names = sorted({key[1] for key in counts if key[0] == "set"})
    return {
        "rows": counts["rows", "read"],
        "kept": counts["rows", "read"] - sum(gone.values()),
        "dropped_rows": gone,
        "dropped_passages": {part: counts["passage", part] for part in PARTS[1:]},
        "methods": {method: counts["method", method] for method in METHODS},
        "sets": {name: {part: counts["set", name, part] for part in PARTS} for name in names},
    }


def _kept(
    rows: Iterable[Row],
    index: EvaluationIndex,
    counts: Counter[tuple[str, ...]],
    dropped: list[dict[str, Any]],
) -> Iterator[Row]:
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
        yield from filter(None, (_filter_row(row, known, counts, dropped) for row in batch))


def _filter_row(
    row: Row,
    known: Mapping[int, tuple[Match, ...]],
    counts: Counter[tuple[str, ...]],
    dropped: list[dict[str, Any]],
) -> Row | None:
    """The row without the passages that match, or None where it is dropped."""
    counts["rows", "read"] += 1
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
    holds = {
        "query": query,
        "no positive left": not kept["positive"],
        "no negative left": row["negative_passages"] and not kept["negative"],
    }
    reason = next((reason for reason in REASONS if holds[reason]), None)
    counts.update([("dropped", reason)] if reason else [("passage", x["part"]) for x in lines])
    counts.update(("method", line["matches"][0]["method"]) for line in lines)
    counts.update({("set", m["set"], line["part"]) for line in lines for m in line["matches"]})
    fate = {"fate": "row" if reason else "passage", "reason": reason}
    dropped += [line | fate for line in lines]
    if reason:
        return None
    return {**row, "positive_passages": kept["positive"], "negative_passages": kept["negative"]}


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
