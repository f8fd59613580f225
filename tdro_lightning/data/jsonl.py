"""Rows and other objects in `.jsonl` and `.jsonl.gz` files, read line by line and written."""

import gzip
import io
import json
import zlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tdro_lightning.data.example import Passage, Row
from tdro_lightning.data.fields import check_row, optional_list
from tdro_lightning.errors import DataError, RowError
from tdro_lightning.files import DuplicateKeyError, explain_read_errors, parse_json, whole_file

ROW_KEYS = Row.__annotations__.keys()
LONGEST_LINE = 2**29  # bytes; rows with their negatives take thousands
PASSAGE_KEYS = Passage.__annotations__.keys()


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place (file and line from 1) and JSON object of each line that is not blank.

    Raises:
        DataError: a line is not a JSON object, or as in `read_lines`.
    """
    for number, line in byte_lines(path):
        value = parse_line(line, number, f"{path}:{number}")
        if value is not None:
            yield f"{path}:{number}", value


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of a plain or gzipped UTF-8 file; only `\\n` ends a line.

    Raises:
        DataError: there is no such file, it is not UTF-8, or the gzip stream is damaged.
    """
    for number, line in byte_lines(path):
        yield number, _decoded(line, number, f"{path}:{number}")


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, undecoded line) of a plain or gzipped file.

    Raises:
        DataError: the file cannot be read, the gzip stream is damaged, or a line has more than
            `LONGEST_LINE` bytes: a small gzip file can hold one that fills the memory.
    """
    number = 0
    try:
        with (
            explain_read_errors(path, "a .jsonl or .jsonl.gz file"),
            io.BufferedReader(gzip.open(path))
            if path.suffix == ".gz"
            else path.open("rb") as stream,
        ):
            lines = iter(partial(stream.readline, LONGEST_LINE + 1), b"")
            for number, line in enumerate(lines, start=1):
                if len(line) > LONGEST_LINE:
                    raise DataError(
                        f"{path}:{number}: the line is longer than {LONGEST_LINE // 2**20} MiB"
                    )
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file after line {number} ({error})") from None


def parse_line(line: bytes, number: int, place: str) -> dict[str, Any] | None:
    """The JSON object of a line, None where it is blank.

    Raises:
        RowError: it is not UTF-8 or no JSON object.
    """
    text = _decoded(line, number, place)
    if not text.strip():
        return None
    kind = "not JSON"
    try:
        value = parse_json(text)
        if isinstance(value, dict):
            return value
        reason = f"expected a JSON object, got {type(value).__name__}"
    except DuplicateKeyError as error:
        kind, reason = "key twice", f"not valid JSON ({error})"
    except (ValueError, RecursionError) as error:
        reason = f"not valid JSON ({error})"
    if number == 1 and text.lstrip().startswith("["):
        kind, reason = "not JSON", "not valid JSON (the file is one list; write one object a line)"
    elif not line.endswith(b"\n"):
        reason += "; the file ends in this line: is it cut off?"
    raise RowError(f"{place}: {reason}", kind)


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield place and row of each line of a training file, every field checked.

    Raises:
        DataError: a line breaks the row format; the message names file, line and field.
    """
    for place, value in read_objects(path):
        yield place, check_row(value, place)


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


def examine_lines(path: Path, place: str | None = None) -> Iterator[Line]:
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
        line = _examine(content, number, f"{place}:{number}")
        if line is None:
            continue
        empty = False
        if line.row is not None:
            hashes.append(hash(line.row["query_id"]))
            numbers.append(number)
        yield line
    if empty:
        raise DataError(f"{place}: no rows in it")
    _, firsts, groups = np.unique(np.array(hashes), return_index=True, return_inverse=True)
    for again in np.flatnonzero(firsts[groups] != np.arange(len(numbers))):
        first, second = numbers[firsts[groups[again]]], numbers[again]
        message = f"`query_id` stands in line {first} already; ids must be distinct"
        yield Line(second, fault=RowError(f"{place}:{second}: {message}", "id twice", second))


def rows_at(path: Path, lines: Collection[int]) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) of some lines of a file that `examine_lines` has found usable.

    The others are not parsed, and none is read after the last one.

    Raises:
        DataError: the file cannot be read, or one of the lines has become faulty.
    """
    wanted = set(lines)
    numbered = byte_lines(path) if wanted else iter(())
    for number, content in numbered:
        if number not in wanted:
            continue
        value = parse_line(content, number, f"{path}:{number}")
        if value is not None:
            yield number, check_row(value, f"{path}:{number}")
        wanted.remove(number)
        if not wanted:
            return


def _examine(content: bytes, number: int, place: str) -> Line | None:
    """What a line holds, None where it is blank."""
    try:
        value = parse_line(content, number, place)
        if value is None:
            return None
        row = check_row(value, place)
    except RowError as error:
        error.line = number
        return Line(number, fault=error)
    unread = list(value.keys() - ROW_KEYS)
    for part in ("positive_passages", "negative_passages"):
        keys = set[str]().union(*optional_list(value, part, place))
        unread += [f"{part}[].{key}" for key in keys - PASSAGE_KEYS]
    left_out = len(optional_list(value, "negative_passages", place)) - len(row["negative_passages"])
    return Line(number, row, None, tuple(unread), left_out)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write objects one a line, gzipped where the name ends in `.gz`, and return their number.

    Equal rows give equal bytes (the gzip header holds neither name nor time), and the file appears
    under its name only when it is complete.
    """
    count = 0
    with whole_file(path) as raw:
        zipped = (
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
            if path.suffix == ".gz"
            else nullcontext(raw)
        )
        with zipped as stream:
            for count, row in enumerate(rows, start=1):  # noqa: B007
                stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
    return count


def _decoded(line: bytes, number: int, place: str) -> str:
    # Line by line, since a text stream decodes ahead and loses the line number.
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise RowError(f"{place}: not UTF-8 ({error.reason})", "not UTF-8") from None
