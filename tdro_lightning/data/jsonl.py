"""Rows and other objects in `.jsonl` and `.jsonl.gz` files, read line by line and written."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tdro_lightning.data.example import Row
from tdro_lightning.data.row_format import check_row
from tdro_lightning.errors import DataError, RowError
from tdro_lightning.files import DuplicateKeyError, explain_read_errors, parse_json, whole_file


def domain_files(folder: Path) -> dict[str, Path]:
    """The `.jsonl` and `.jsonl.gz` files of a folder, by their names without these endings.

    Raises:
        DataError: there is no such folder or file, or a domain has two files.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for path in sorted([*folder.glob("[!.]*.jsonl"), *folder.glob("[!.]*.jsonl.gz")]):
        name = domain_name(path)
        if name in files:
            raise DataError(f"domain {name!r} has two files: {files[name]} and {path}")
        files[name] = path
    if not files:
        raise DataError(f"{folder}: no .jsonl or .jsonl.gz file to mine negatives for")
    return files


def domain_name(path: Path) -> str:
    """A file's name without the endings `.jsonl` and `.jsonl.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, JSON object) for each line that is not blank.

    Raises:
        DataError: a line is not a JSON object, or as in `read_lines`.
    """
    for number, line in byte_lines(path):
        value = parsed_line(line, number, f"{path}:{number}")
        if value is not None:
            yield number, value


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
        DataError: the file cannot be read, or the gzip stream is damaged.
    """
    number = 0
    try:
        with _open_bytes(path) as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file after line {number} ({error})") from None


def parsed_line(line: bytes, number: int, place: str) -> dict[str, Any] | None:
    """The JSON object of a line, None where it is blank.

    Raises:
        RowError: it is not UTF-8 or no JSON object.
    """
    text = _decoded(line, number, place)
    if not text.strip():
        return None
    try:
        return _object(text, place)
    except RowError as error:
        if number == 1 and text.lstrip().startswith("["):
            message = f"{place}: not valid JSON (the file is one list; write one object a line)"
            raise RowError(message, "not JSON") from None
        if line.endswith(b"\n"):
            raise
        message = f"{error}; the file ends in this line: is it cut off?"
        raise RowError(message, error.kind) from None


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) of a training file, every field checked.

    Raises:
        DataError: a line breaks the row format; the message names file, line and field.
    """
    for number, value in read_objects(path):
        yield number, check_row(value, f"{path}:{number}")


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
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                count += 1
    return count


def _open_bytes(path: Path) -> io.BufferedReader:
    with explain_read_errors(path, "a .jsonl or .jsonl.gz file"):
        if path.suffix == ".gz":
            return io.BufferedReader(gzip.open(path, "rb"))
        return path.open("rb")


def _decoded(line: bytes, number: int, place: str) -> str:
    # Line by line, since a text stream decodes ahead and loses the line number.
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise RowError(f"{place}: not UTF-8 ({error.reason})", "not UTF-8") from None


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        kind = "key twice" if isinstance(error, DuplicateKeyError) else "not JSON"
        raise RowError(f"{place}: not valid JSON ({error})", kind) from None
    if not isinstance(value, dict):
        found = type(value).__name__
        raise RowError(f"{place}: expected a JSON object, got {found}", "not JSON")
    return value
