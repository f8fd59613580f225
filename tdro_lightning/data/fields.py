"""Fields of rows from elsewhere: each is checked, and none is cast or replaced in silence."""

import re
from collections.abc import Container, Mapping
from typing import Any

from tdro_lightning.data.characters import is_blank
from tdro_lightning.errors import DataError

GREATEST_GRADE = 100  # of a judgement; the library of the measures ends the process at huge ones

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")


def string(value: Mapping[str, Any], field: str, place: str) -> str:
    """The text in a field.

    Raises:
        DataError: it is no text, or no valid Unicode.
    """
    text = value.get(field)
    if not isinstance(text, str):
        raise DataError(f"{place}: `{field}` must be a string, is {text!r}"[:300])
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: `{field}` holds a lone surrogate, not valid Unicode") from None
    return text


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
    if isinstance(given, int | float | str) and not isinstance(given, bool):
        text = str(given).strip()
        if _WHOLE.fullmatch(text) and int(text.partition(".")[0]) <= GREATEST_GRADE:
            return max(int(text.partition(".")[0]), 0)
    raise DataError(
        f"{place}: the score must be a whole number up to {GREATEST_GRADE}, is {given!r}"[:300]
    )
