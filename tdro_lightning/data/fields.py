"""Fields of rows and other objects: each is checked, and none is cast or replaced in silence."""

import re
import sys
import unicodedata
from collections.abc import Container, Mapping
from typing import Any

from tdro_lightning.data.characters import is_blank
from tdro_lightning.data.example import Passage, Row, passage_text
from tdro_lightning.errors import DataError, RowError

GREATEST_GRADE = 100  # of a judgement; the library of the measures ends the process at huge ones

_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(\.0*)?")


def string(value: Mapping[str, Any], field: str, place: str) -> str:
    """The text in a field.

    Raises:
        DataError: it is no text, or no valid Unicode.
    """
    text = value.get(field)
    if not isinstance(text, str):
        raise DataError(f"{place}: `{field}` must be a string, is {text!r}"[:300])
    return _unicode(text, field, place)


def identifier(value: Mapping[str, Any], field: str, place: str) -> str:
    """The id in a field: a text as it is, so that "007" stays, or a whole number, 0 too.

    Raises:
        DataError: it is missing, empty or of another type.
    """
    given = value.get(field)
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if not isinstance(given, str):
        raise DataError(
            f"{place}: `{field}` must be a string or a whole number, is {given!r}"[:300]
        )
    if is_blank(string(value, field, place)):
        raise DataError(f"{place}: `{field}` is empty")
    return given


def new_identifier(value: Mapping[str, Any], field: str, known: Container[str], place: str) -> str:
    """The id in a field, which must not be known yet.

    Raises:
        DataError: it is known, or as in `identifier`.
    """
    found = identifier(value, field, place)
    if found in known:
        raise DataError(f"{place}: `{field}` {found!r} is a duplicate")
    return found


def optional_list(value: Mapping[str, Any], field: str, place: str) -> list[Any]:
    """The list in a field; none where the field is missing or null.

    Raises:
        DataError: it is no list.
    """
    found = value.get(field)
    if found is not None and not isinstance(found, list):
        raise DataError(f"{place}: `{field}` must be a list, is {found!r}"[:300])
    return [] if found is None else found


def grade(given: Any, place: str) -> int:
    """The grade of a judgement, from a table or from JSON; a negative one is 0, not relevant.

    Raises:
        DataError: it is no whole number, or above 100.
    """
    whole = _WHOLE.fullmatch(str(given).strip())
    if whole is None or int(whole[1]) > GREATEST_GRADE:
        raise DataError(
            f"{place}: the score must be a whole number up to {GREATEST_GRADE}, is {given!r}"[:300]
        )
    return max(int(whole[1]), 0)


def check_row(value: Mapping[str, Any], place: str) -> Row:
    """Return `value` as a row, without unknown keys and negatives that are a positive of the row.

    Args:
        value: one parsed JSON object.
        place: file and line, for the message.

    Raises:
        RowError: a field is missing, empty or of the wrong type, or there is no positive.
    """
    positives = _passages(value, "positive_passages", place, required=True)
    negatives = _passages(value, "negative_passages", place, required=False)
    known = {_compared(passage) for passage in positives}
    return Row(
        query_id=_text(value, "query_id", place),
        query=_text(value, "query", place),
        positive_passages=positives,
        negative_passages=[p for p in negatives if _compared(p) not in known],
    )


def _passage(value: Mapping[str, Any], place: str) -> Passage:
    """A passage without unknown keys; only the text must be there, and may be empty by a title."""
    docid, title = (
        "" if value.get(field) is None else _text(value, field, place, empty=True)
        for field in ("docid", "title")
    )
    text = _text(value, "text", place, empty=not is_blank(title))
    passage = Passage(docid=docid, title=title, text="" if is_blank(text) else text)
    score = value.get("score")
    if score is not None:
        number = isinstance(score, int | float) and not isinstance(score, bool)
        if not number or abs(score) > sys.float_info.max:
            raise RowError(
                f"{place}: `score` must be a finite number, is {score!r}"[:300], "wrong type"
            )
        passage["score"] = float(score)
    return passage


def _compared(passage: Passage) -> str:
    """A passage's text as a negative is compared with the positives."""
    return unicodedata.normalize("NFC", passage_text(passage)).strip()


def _text(value: Mapping[str, Any], field: str, place: str, *, empty: bool = False) -> str:
    text = value.get(field)
    if not isinstance(text, str):
        kind = "missing" if field not in value else f"{type(text).__name__} {text!r}"[:60]
        raise RowError(f"{place}: `{field}` must be a string, is {kind}", _kind(text))
    if not empty and is_blank(text):
        raise RowError(f"{place}: `{field}` is empty", "empty")
    return _unicode(text, field, place)


def _unicode(text: str, field: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError(
            f"{place}: `{field}` holds a lone surrogate, not valid Unicode", "lone surrogate"
        ) from None
    return text


def _passages(value: Mapping[str, Any], field: str, place: str, *, required: bool) -> list[Passage]:
    passages = value.get(field)
    if passages is None and not required:
        return []
    if not isinstance(passages, list):
        kind = "missing" if field not in value else type(passages).__name__
        raise RowError(f"{place}: `{field}` must be a list of passages, is {kind}", _kind(passages))
    if required and not passages:
        raise RowError(
            f"{place}: `{field}` is empty; every row needs at least one positive", "no positive"
        )
    for i, item in enumerate(passages):
        if not isinstance(item, dict):
            raise RowError(
                f"{place}: `{field}[{i}]` must be an object with docid, title and text, "
                f"is {type(item).__name__}",
                _kind(item),
            )
    return [_passage(item, f"{place}: in `{field}[{i}]`") for i, item in enumerate(passages)]


def _kind(value: Any) -> str:
    return "missing" if value is None else "wrong type"
