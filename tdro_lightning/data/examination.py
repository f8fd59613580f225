"""A training file line by line: which rows can be used, and what is wrong with the others."""

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.data.example import Passage, Row
from tdro_lightning.data.jsonl import byte_lines, parsed_line
from tdro_lightning.data.row_format import check_row
from tdro_lightning.errors import DataError, RowError

ROW_KEYS = Row.__annotations__.keys()
PASSAGE_KEYS = Passage.__annotations__.keys()


@dataclass(frozen=True)
class Line:
    """A line of a training file that is not blank: a row, or a fault.

    Args:
        number: of the line, from 1.
        row: what can be used of it, None where nothing can.
        fault: why nothing can be used.
        unread: keys that are not read, passages' ones as `positive_passages[].KEY`.
        false_negatives: negatives left out because they equal a positive of the row.
    """

    number: int
    row: Row | None = None
    fault: RowError | None = None
    unread: tuple[str, ...] = ()
    false_negatives: int = 0


def examined(path: Path, place: str | None = None) -> Iterator[Line]:
    """Every line of a file, faulty ones too.

    A query id that stood before is known at the end only: then the line comes again, as a fault.

    Args:
        path: a `.jsonl` or `.jsonl.gz` file.
        place: how messages call it; None for its path.

    Raises:
        DataError: the file as a whole cannot be used: it is missing, damaged or without a row.
    """
    place = place or str(path)
    # 16 bytes a row, so that the check fits in memory for tens of millions of rows.
    hashes, numbers = array("q"), array("q")
    empty = True
    for number, content in byte_lines(path):
        line = _line(content, number, f"{place}:{number}")
        if line is None:
            continue
        empty = False
        if line.row is not None:
            hashes.append(hash(line.row["query_id"]))
            numbers.append(number)
        yield line
    if empty:
        raise DataError(f"{place}: no rows in it")
    for first, second in _twins(np.array(hashes), np.array(numbers)):
        message = f"`query_id` stands in line {first} already; ids must be distinct"
        fault = RowError(f"{place}:{second}: {message}", "id twice", second)
        yield Line(second, fault=fault)


def _line(content: bytes, number: int, place: str) -> Line | None:
    """What a line holds, None where it is blank."""
    try:
        value = parsed_line(content, number, place)
        if value is None:
            return None
        row = check_row(value, place)
    except RowError as error:
        error.line = number
        return Line(number, fault=error)
    left_out = len(_passages(value, "negative_passages")) - len(row["negative_passages"])
    return Line(number, row, None, _unread(value), left_out)


def _passages(value: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """The passages of a checked row; null is none of them."""
    passages = value.get(part)
    return [] if passages is None else list(passages)


def _unread(value: Mapping[str, Any]) -> tuple[str, ...]:
    found = list(value.keys() - ROW_KEYS)
    for part in ("positive_passages", "negative_passages"):
        keys: set[str] = set()
        for passage in _passages(value, part):
            if not passage.keys() <= PASSAGE_KEYS:
                keys |= passage.keys() - PASSAGE_KEYS
        found += [f"{part}[].{key}" for key in keys]
    return tuple(found)


def _twins(hashes: NDArray[np.int64], lines: NDArray[np.int64]) -> list[tuple[int, int]]:
    """For each line whose hash an earlier one has: that line, the first such, by line."""
    order = np.argsort(hashes, kind="stable")
    new = np.ones(len(order), dtype=bool)
    new[1:] = hashes[order][1:] != hashes[order][:-1]
    # The order is stable, so that of equal hashes the first has the first line.
    firsts = order[np.flatnonzero(new)[np.cumsum(new) - 1]] if len(order) else order
    pairs = zip(lines[firsts[~new]].tolist(), lines[order[~new]].tolist(), strict=True)
    return sorted(pairs, key=lambda pair: pair[1])
