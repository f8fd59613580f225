"""Objects from text files: JSON lines, a JSON list, or a table with a header.

The library of tables (`datasets`) is not asked: it casts whole columns, so that "007" beside 5, and
any "007" of a `.csv`, becomes 7, "NA" null, and dates points in time.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tdro_lightning.data.jsonl import byte_lines, read_lines, read_objects
from tdro_lightning.errors import DataError
from tdro_lightning.files import parse_json

JSON = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
SUFFIXES = (*JSON, ".csv", ".csv.gz", ".tsv", ".tsv.gz")


def text_objects(file: Path, delimiter: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place (file and line, or file and item of a list) and content of each object.

    Args:
        file: one of `SUFFIXES`.
        delimiter: of a table's cells; None for a comma, or a tab in `.tsv`.

    Raises:
        DataError: the file cannot be read, or a line of it.
    """
    if file.name.endswith(JSON):
        starts = next((line.lstrip()[:1] for _, line in byte_lines(file) if line.strip()), b"")
        if starts.endswith(b"["):
            yield from _items(file)
        else:
            yield from ((f"{file}:{number}", value) for number, value in read_objects(file))
    else:
        tabs = file.name.removesuffix(".gz").endswith(".tsv")
        yield from _cells(file, delimiter or ("\t" if tabs else ","))


def _items(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        items = parse_json("".join(line for _, line in read_lines(file)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: not valid JSON ({error})") from None
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise DataError(
                f"{file}: item {number}: expected a JSON object, got {type(item).__name__}"
            )
        yield f"{file}: item {number}", item


def _cells(file: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table, every cell a text; one in quotes may have several lines."""
    csv.field_size_limit(sys.maxsize)
    lines = (line for _, line in read_lines(file))
    table = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in table:
            place, start = f"{file}:{start}", table.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
                if len(set(header)) < len(header) or not all(header):
                    raise DataError(
                        f"{place}: columns must have names, all different, are {header}"
                    )
            elif len(cells) != len(header):
                raise DataError(f"{place}: {len(cells)} cells, and the header has {len(header)}")
            else:
                yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{file}:{start}: no valid table ({error})") from None
