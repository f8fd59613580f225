"""Rows in `.jsonl` and `.jsonl.gz` files: reading with a check of every line, and writing."""

import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tdro_lightning.data.example import Passage, Row
from tdro_lightning.errors import DataError


def domain_files(folder: Path) -> dict[str, Path]:
    """The `.jsonl` and `.jsonl.gz` files of a folder, by their names without these endings.

    Raises:
        DataError: there is no such folder or file, or a domain has two files.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for path in sorted([*folder.glob("[!.]*.jsonl"), *folder.glob("[!.]*.jsonl.gz")]):
        name = path.name.removesuffix(".gz").removesuffix(".jsonl")
        if name in files:
            raise DataError(f"domain {name!r} has two files: {files[name]} and {path}")
        files[name] = path
    if not files:
        raise DataError(f"{folder}: no .jsonl or .jsonl.gz file to mine negatives for")
    return files


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, JSON object) for each line that is not blank.

    Raises:
        DataError: a line is not a JSON object, or as in `read_lines`.
    """
    for number, line in read_lines(path):
        if line.strip():
            yield number, _object(line, f"{path}:{number}")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of a plain or gzipped UTF-8 file; only `\\n` ends a line.

    Raises:
        DataError: there is no such file, it is not UTF-8, or the gzip stream is damaged.
    """
    number = 0
    try:
        with _open_bytes(path) as stream:
            for number, line in enumerate(stream, start=1):
                # Decoded line by line, since a text stream decodes ahead and loses the line number.
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error.reason})") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file after line {number} ({error})") from None


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) of a training file, every field checked.

    Raises:
        DataError: a line breaks the row format; the message names file, line and field.
    """
    for number, value in read_objects(path):
        yield number, check_row(value, f"{path}:{number}")


def check_row(value: Mapping[str, Any], place: str) -> Row:
    """Return `value` as a row without unknown keys.

    Args:
        value: one parsed JSON object.
        place: file and line, for the message.

    Raises:
        DataError: a field is missing, empty or of the wrong type, or there is no positive.
    """
    return Row(
        query_id=_text(value, "query_id", place),
        query=_text(value, "query", place),
        positive_passages=_passages(value, "positive_passages", place, required=True),
        negative_passages=_passages(value, "negative_passages", place, required=False),
    )


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write objects one a line, gzipped where the name ends in `.gz`, and return their number.

    Equal rows give equal bytes (the gzip header holds neither name nor time), and the file appears
    under its name only when it is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    with temporary.open("wb") as raw:
        zipped = (
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
            if path.suffix == ".gz"
            else raw
        )
        for row in rows:
            zipped.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            count += 1
        if zipped is not raw:
            zipped.close()
        raw.flush()
        os.fsync(raw.fileno())
    os.replace(temporary, path)
    return count


def _open_bytes(path: Path) -> io.BufferedReader:
    try:
        if path.suffix == ".gz":
            return io.BufferedReader(gzip.open(path, "rb"))
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, expected a .jsonl or .jsonl.gz file") from None


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{place}: expected a JSON object, got {type(value).__name__}")
    return value


def _text(value: Mapping[str, Any], field: str, place: str, *, empty: bool = False) -> str:
    text = value.get(field)
    if not isinstance(text, str):
        found = "missing" if field not in value else f"{type(text).__name__} {text!r}"[:60]
        raise DataError(f"{place}: `{field}` must be a string, is {found}")
    if not empty and not text.strip():
        raise DataError(f"{place}: `{field}` is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: `{field}` holds a lone surrogate, not valid Unicode") from None
    return text


def _passages(value: Mapping[str, Any], field: str, place: str, *, required: bool) -> list[Passage]:
    passages = value.get(field)
    if passages is None and not required:
        return []
    if not isinstance(passages, list):
        found = "missing" if field not in value else type(passages).__name__
        raise DataError(f"{place}: `{field}` must be a list of passages, is {found}")
    if required and not passages:
        raise DataError(f"{place}: `{field}` is empty; every row needs at least one positive")
    return [_passage(item, f"{field}[{i}]", place) for i, item in enumerate(passages)]


def _passage(item: Any, field: str, place: str) -> Passage:
    if not isinstance(item, dict):
        raise DataError(
            f"{place}: `{field}` must be an object with docid, title and text, "
            f"is {type(item).__name__}"
        )
    return check_passage(item, f"{place}: in `{field}`")


def check_passage(value: Mapping[str, Any], place: str, *, empty: bool = False) -> Passage:
    """Return `value` as a passage without unknown keys.

    Args:
        value: `docid`, `title`, `text` and `score`; only the text must be there.
        place: file, line and field, for the message.
        empty: whether the text may be empty.

    Raises:
        DataError: a field is of the wrong type, or the text is missing or empty.
    """
    title = "" if value.get("title") is None else _text(value, "title", place, empty=True)
    text = _text(value, "text", place, empty=empty)
    passage = Passage(docid=_docid(value, place), title=title, text=text)
    score = value.get("score")
    if score is not None:
        number = isinstance(score, int | float) and not isinstance(score, bool)
        if not number or abs(score) > sys.float_info.max:
            raise DataError(f"{place}: `score` must be a finite number, is {score!r}")
        passage["score"] = float(score)
    return passage


def _docid(item: Mapping[str, Any], place: str) -> str:
    return "" if item.get("docid") is None else _text(item, "docid", place, empty=True)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} stands twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
