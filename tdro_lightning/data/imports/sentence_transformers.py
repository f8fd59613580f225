"""Pairs, triplets and n-tuples of Sentence Transformers: one column a text, found by its name."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tdro_lightning.data.fields import identifier
from tdro_lightning.data.imports.objects import Objects
from tdro_lightning.errors import DataError

NAMES = {  # of the columns that have a role
    "query_id": ("query_id",),
    "query": ("anchor", "query", "question", "sentence1"),
    "positive": ("positive", "answer", "passage", "pos", "sentence2"),
}
LABELS = ("label", "labels", "score", "scores")
_NEGATIVE = re.compile(r"negative(_(\d+))?")

Roles = Mapping[str, str]


def sentence_transformers(
    objects: Objects, columns: Roles | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table of texts; the order of its columns means nothing.

    Args:
        objects: place and columns of each row.
        columns: the column of each role; others are left out then. None finds all by their names,
            and refuses those that it does not know.

    Raises:
        DataError: columns without a role, that differ between rows, or that hold no text.
    """
    roles: Roles = {}
    given: set[str] = set()
    for number, (place, value) in enumerate(objects, start=1):
        if not given:
            given, roles = set(value), columns or _found(value, place)
        missing = [column for column in roles.values() if column not in value]
        if missing or (columns is None and set(value) != given):
            lacks = f"`{missing[0]}` is missing; " if missing else ""
            raise DataError(
                f"{place}: {lacks}columns are {sorted(value)}, expected {sorted(given)}"
                if columns is None
                else f"{place}: {lacks}columns are {sorted(value)} (source.columns)"
            )
        texts = {role: _text(value, roles[role], place) for role in roles if role != "query_id"}
        row_id = identifier(value, roles["query_id"], place) if "query_id" in roles else str(number)
        negatives = [texts[role] for role in sorted(texts, key=_rank) if _NEGATIVE.fullmatch(role)]
        yield (
            place,
            {
                **{column: value[column] for column in value if column not in roles.values()},
                "query_id": row_id,
                "query": texts["query"],
                "positive_passages": [{"text": texts["positive"]}],
                "negative_passages": [{"text": text} for text in negatives if text is not None],
            },
        )


def _found(value: Iterable[str], place: str) -> Roles:
    """The column of each role by the columns' names."""
    roles: dict[str, str] = {}
    unknown = []
    for column in value:
        role = next((role for role, names in NAMES.items() if column in names), None)
        role = column if _NEGATIVE.fullmatch(column) else role
        if role is None:
            unknown.append(column)
        elif role in roles:
            raise DataError(
                f"{place}: columns {roles[role]!r} and {column!r} could both be the {role}; {_HINT}"
            )
        else:
            roles[role] = column
    labels = [column for column in unknown if column in LABELS]
    if labels:
        raise DataError(
            f"{place}: columns {sorted(value)} are labelled pairs, which are not imported: "
            f"{labels[0]!r} says how alike they are; {_HINT}"
        )
    missing = [role for role in ("query", "positive") if role not in roles]
    if unknown or missing:
        lacks = f"there is no {missing[0]} ({', '.join(NAMES[missing[0]])})" if missing else ""
        names = f"{', '.join(map(repr, sorted(unknown)))} unknown" if unknown else ""
        reason = "; ".join(filter(None, (lacks, names)))
        raise DataError(f"{place}: columns {sorted(value)} are not understood: {reason}; {_HINT}")
    return roles


_HINT = "give the columns: 'source.columns={query: COLUMN, positive: COLUMN}'"


def _text(value: Mapping[str, Any], column: str, place: str) -> str | None:
    text = value[column]
    if text is not None and not isinstance(text, str):
        raise DataError(f"{place}: `{column}` must be a string, is {type(text).__name__}")
    return text


def _rank(role: str) -> int:
    """Place of a negative's role: `negative`, `negative_1`, ..., `negative_10`."""
    found = _NEGATIVE.fullmatch(role)
    return int(found[2]) if found and found[2] else -1
