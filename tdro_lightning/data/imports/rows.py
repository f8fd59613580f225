"""Fields of another layout as checked rows, with a list of what was left out and why."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from tdro_lightning.data.characters import is_blank, normalise
from tdro_lightning.data.example import Row, passage_text
from tdro_lightning.data.fields import check_row, identifier
from tdro_lightning.data.imports.layouts import Fields, ignored_fields
from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.errors import DataError

ROW_REASONS = ("empty query", "no positive", "query_id twice")
PASSAGE_REASONS = ("no text", "duplicate", "negative is a positive")


def import_rows(
    name: str, given: Iterable[tuple[str, Fields]], rows: Path, dropped: Path
) -> dict[str, Any]:
    """Write a domain's rows, and those that cannot be one.

    A row is left out without a query, without a positive that has a text or a title, or with an id
    of an earlier row; a passage without text and title, a repeated one, or one that is both a
    positive and a negative (as the latter).

    Args:
        name: of the domain, for messages.
        given: place and fields of each row.
        rows: file for the rows.
        dropped: file with `place`, `reason`, `query_id` and `query` of each row left out.

    Returns:
        Counts: `read`, `written`, `positives`, `negatives`, `rows_without_negatives`,
        `dropped_rows` and `dropped_passages` by reason, `ignored_fields`.

    Raises:
        DataError: a field of the wrong type, or no row that can be used.
    """
    counts, ignored = Counter[str](), Counter[str]()
    left_out: list[dict[str, Any]] = []
    write_rows(rows, _rows(name, given, counts, ignored, left_out))
    write_rows(dropped, left_out)
    counted = ("read", "written", "positives", "negatives", "rows_without_negatives")
    return {
        **{key: counts[key] for key in counted},
        "dropped_rows": {reason: counts[reason] for reason in ROW_REASONS},
        "dropped_passages": {reason: counts[reason] for reason in PASSAGE_REASONS},
        "ignored_fields": dict(sorted(ignored.items())),
    }


def _rows(
    name: str,
    given: Iterable[tuple[str, Fields]],
    counts: Counter[str],
    ignored: Counter[str],
    dropped: list[dict[str, Any]],
) -> Iterator[Row]:
    seen: set[str] = set()
    for place, fields in given:
        counts["read"] += 1
        ignored.update(ignored_fields(fields))
        fields["query_id"] = identifier(fields, "query_id", place)
        row = _row(fields, place, seen, counts)
        if isinstance(row, str):
            counts[row] += 1
            dropped.append(
                {
                    "place": place,
                    "reason": row,
                    "query_id": fields["query_id"],
                    "query": fields.get("query"),
                }
            )
            continue
        seen.add(row["query_id"])
        counts.update(
            written=1,
            positives=len(row["positive_passages"]),
            negatives=len(row["negative_passages"]),
            rows_without_negatives=not row["negative_passages"],
        )
        yield row
    if not counts["written"]:
        reasons = [f"{counts[why]} {why}" for why in ROW_REASONS if counts[why]]
        raise DataError(
            f"domain {name!r}: no row that can be used ({', '.join(reasons) or 'nothing there'})"
        )


def _row(fields: Fields, place: str, ids: Container[str], counts: Counter[str]) -> Row | str:
    """The row, or why there is none."""
    query = fields.get("query")
    if query is None or (isinstance(query, str) and is_blank(query)):
        return "empty query"
    kept: dict[str, list[Any]] = {}
    seen: set[str] = set()
    for part in ("positive_passages", "negative_passages"):
        passages = [] if fields.get(part) is None else fields[part]
        if not isinstance(passages, list) or not all(isinstance(item, dict) for item in passages):
            raise DataError(f"{place}: `{part}` must be a list of objects, is {passages!r}"[:300])
        positives = frozenset(seen)
        kept[part] = [p for p in passages if _is_new(p, seen, positives, counts)]
    if not kept["positive_passages"]:
        return "no positive"
    row = check_row({**fields, **kept}, place)
    return "query_id twice" if row["query_id"] in ids else row


def _is_new(
    passage: dict[str, Any], seen: set[str], positives: frozenset[str], counts: Counter[str]
) -> bool:
    title, text = passage.get("title"), passage.get("text")
    if not all(part is None or isinstance(part, str) for part in (title, text)):
        return True  # for the check of the whole row to refuse
    title, text = title or "", text or ""
    if is_blank(text):
        if is_blank(title):
            counts["no text"] += 1
            return False
        text = passage["text"] = ""  # a document with a title only is one, as in evaluation sets
    key = normalise(passage_text({"docid": "", "title": title, "text": text}))
    if key in positives:
        counts["negative is a positive"] += 1
    elif key in seen:
        counts["duplicate"] += 1
    else:
        seen.add(key)
        return True
    return False
