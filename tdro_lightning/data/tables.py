"""Tables: their rows in files of any kind, and Arrow copies in the cache of `datasets`.

Copies are memory-mapped and keyed by content, not by time.
"""

import csv
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tdro_lightning.data.jsonl import byte_lines, read_lines, read_objects
from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint, parse_json, whole_file
from tdro_lightning.records.receipts import finished_result, write_receipt

FOLDER = "tdro_lightning"  # in the cache of `datasets`
ROWS_AT_ONCE = 1000
PARQUET = ".parquet"
JSON = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
TEXT = (*JSON, ".csv", ".csv.gz", ".tsv", ".tsv.gz")


def text_columns(*names: str) -> datasets.Features:
    """Columns of text."""
    return datasets.Features({name: datasets.Value("string") for name in names})


def cached_table(
    rows: Iterator[dict[str, Any]],
    features: datasets.Features,
    content: str,
) -> datasets.Dataset:
    """The table of some rows, from the cache where it is there as it was written.

    A table is written row by row, and is in the cache once it is whole. Where several processes
    want it, one writes it and the others wait. A damaged one is made again, and a warning names it.

    Args:
        rows: the rows; nothing is asked of the iterator where the table is in the cache.
        features: columns and their types.
        content: says what the rows are: equal content and features are an equal table.

    Raises:
        DataError: as `rows` does; nothing is cached then.
    """
    lists = iter(lambda: list(islice(rows, ROWS_AT_ONCE)), [])
    parts = (pa.Table.from_pylist(part, features.arrow_schema) for part in lists)
    return _cached(parts, features, content)


def cached_rows(table: datasets.Dataset, chosen: NDArray[np.int64]) -> datasets.Dataset:
    """The table of some rows of a cached table, as in `cached_table`.

    Args:
        table: the whole.
        chosen: indices [R] of its rows, in the order that they have then.
    """
    source = "".join(fingerprint(Path(file["filename"])) for file in table.cache_files)
    content = f"{source} {hashlib.sha256(chosen.tobytes()).hexdigest()}"
    rows = table.select(chosen).with_format("arrow")
    parts = (part.combine_chunks() for part in rows.iter(ROWS_AT_ONCE))
    return _cached(parts, table.features, content)


def _cached(
    parts: Iterable[pa.Table], features: datasets.Features, content: str
) -> datasets.Dataset:
    """The table of some parts, which are not asked for where it is in the cache."""
    made_from = {"content": content, "features": str(features)}
    key = hashlib.sha256(f"{content} {features}".encode()).hexdigest()[:32]
    path = Path(datasets.config.HF_DATASETS_CACHE) / FOLDER / f"{key}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        if finished_result(path.with_suffix(".json"), made_from) is None:
            try:
                with (
                    whole_file(path) as stream,
                    pa.ipc.new_stream(stream, features.arrow_schema) as writer,
                ):
                    for part in parts:
                        writer.write_table(part.cast(features.arrow_schema))
            finally:  # also what a killed process has left
                for orphan in path.parent.glob(f".{path.name}.*.tmp"):
                    orphan.unlink()
            write_receipt(path.with_suffix(".json"), made_from, [path])
    return datasets.Dataset.from_file(str(path))


def split_files(
    path: str, split: str | None, **chosen: Any
) -> tuple[dict[str, Path], str | None] | None:
    """The JSON, `.csv` or parquet files of a split, for `file_rows`; None where it has others.

    Args:
        path: folder or hub dataset, as `load_dataset` of `datasets` takes it.
        split: of the dataset; its only one where that is not there or None.
        chosen: `name` or `data_files`, as in `load_dataset`.

    Returns:
        The local file of each address, and what divides their cells where that is no comma.

    Raises:
        DataError: there is no such split, and there are several.
        OSError, ValueError: as in `load_dataset`.
    """
    builder = datasets.load_dataset_builder(path, **chosen)
    kind = type(builder).__module__.rpartition(".")[2]
    splits = builder.config.data_files
    suffixes = {"json": TEXT, "csv": TEXT, "parquet": (PARQUET,)}.get(kind, ())
    if not suffixes or getattr(builder.config, "field", None) is not None:
        return None
    if split not in splits and len(splits) > 1:
        raise DataError(f"{path}: there is no split {split!r}; it has {', '.join(splits)}")
    addresses = list(map(str, splits[split if split in splits else next(iter(splits))]))
    if not all(address.endswith(suffixes) for address in addresses):
        return None
    local = datasets.DownloadManager().download(addresses)
    delimiter = builder.config.sep if kind == "csv" and builder.config.sep != "," else None
    return dict(zip(addresses, map(Path, local), strict=True)), delimiter


def file_rows(
    file: Path, address: str, delimiter: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and content of each row of a parquet or text file.

    The rows are read from the file each time: a cache of `datasets` knows a file by its size and
    time, and its streams need shared memory, which some containers lack.

    Args:
        file: on this machine.
        address: where it is from, which ends in `.parquet` or one of `TEXT`.
        delimiter: of a table's cells; None for a comma, or a tab in `.tsv`.

    Raises:
        DataError: the file cannot be read, or a line of it.
    """
    if not address.endswith(PARQUET):
        return _text_objects(file, address, delimiter)
    return numbered_rows(lambda: pq.ParquetFile(file).iter_batches(ROWS_AT_ONCE), str(file))


def numbered_rows(
    parts: Callable[[], Iterable[pa.Table | pa.RecordBatch]], place: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place (of the whole, and number from 1) and content of each row of some Arrow tables.

    Raises:
        DataError: a part cannot be read.
    """
    number = 0
    try:
        for row in (row for part in parts() for row in part.to_pylist()):
            number += 1
            yield f"{place}:{number}", row
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{place}: cannot be read after row {number} ({reason})") from None


def _text_objects(
    file: Path, address: str, delimiter: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (file and line, or file and item of a list) and content of each object.

    `datasets` does not read them: it casts whole columns, so that "007" beside 5, and any "007" of
    a `.csv`, becomes 7, "NA" null, and dates points in time.
    """
    if not address.endswith(JSON):
        tabs = address.removesuffix(".gz").endswith(".tsv")
        return _cells(file, delimiter or ("\t" if tabs else ","))
    starts = next((line.lstrip()[:1] for _, line in byte_lines(file) if line.strip()), b"")
    return _items(file) if starts.endswith(b"[") else read_objects(file)


def _items(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = "".join(line for _, line in read_lines(file))
    try:
        items = parse_json(text)
    except (ValueError, RecursionError) as error:
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
    header: list[str] = []
    start = 1
    try:
        for cells in table:
            place, start = f"{file}:{start}", table.line_num + 1
            if not header:
                header = cells
                if len(set(header)) < len(header) or not all(header):
                    raise DataError(
                        f"{place}: columns must have names, all different, are {header}"
                    )
            elif cells and len(cells) != len(header):
                raise DataError(f"{place}: {len(cells)} cells, and the header has {len(header)}")
            elif cells:
                yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{file}:{start}: no valid table ({error})") from None
