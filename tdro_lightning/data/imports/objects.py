"""Objects from a file, a folder of files, a saved dataset, or a hub dataset."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import datasets

from tdro_lightning.data.tables import ROWS_AT_ONCE, TEXT, file_rows, numbered_rows, split_files
from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint

SUFFIXES = (*TEXT, ".parquet", ".arrow")
SPLITS = ("train", "validation", "valid", "dev", "test")
# Of folders that `save_to_disk` of `datasets` writes: a table, and splits of it.
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:.+)?")

T = TypeVar("T")
Objects = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Source:
    """Objects that can be read again and again.

    Attributes:
        inputs: SHA-256 of each file, or the fingerprint of a hub dataset.
        read: yields each object with its place, for messages: file or dataset, and line or row.
    """

    inputs: dict[str, str]
    read: Callable[[], Objects]


def source(path: str, split: str) -> Source:
    """The objects of a file, of a folder's files, or of a hub dataset.

    Args:
        path: a file of JSON lines, a JSON list, a table with a header (`.csv`, `.tsv`), each also
            gzipped, a `.parquet` or `.arrow` file; a folder of such files of one kind, where files
            named after a split (`train-00000.parquet`) are read for theirs only; a folder that
            `save_to_disk` has written; or a hub dataset `OWNER/NAME`, with `:CONFIG` or `:FILE`
            where it has several.
        split: of the hub dataset or folder.

    Raises:
        DataError: nothing of the kind is there, or it cannot be read.
    """
    local = Path(path)
    if (local / SAVED_SPLITS).is_file():
        held = sorted(p.name for p in local.iterdir() if (p / SAVED).is_file())
        if split not in held:
            raise DataError(
                f"{local}: no split {split!r} (source.split); it has {', '.join(held) or 'none'}"
            )
        local /= split
    if (local / SAVED).is_file():
        files = sorted(p for p in local.iterdir() if p.is_file())
        read = partial(_saved_rows, local)
    elif local.exists():
        files = _files(local, split) if local.is_dir() else [local]
        if not files[0].name.endswith(SUFFIXES):
            raise DataError(f"{path}: is no file of the kinds {', '.join(SUFFIXES)}")
        read = partial(_read_files, {str(file): file for file in files})
    elif _HUB_NAME.fullmatch(path) and not path.partition(":")[0].endswith(SUFFIXES):
        return _hub(path, split)
    else:
        raise DataError(f"{path}: no such file or folder, and no hub dataset (OWNER/NAME)")
    return Source({str(file): fingerprint(file) for file in files}, read)


def _files(folder: Path, split: str) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(SUFFIXES))
    if any(p.name.startswith(SPLITS) for p in files):
        files = [p for p in files if p.name.startswith(split)]
    if not files:
        held = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise DataError(
            f"{folder}: no {', '.join(SUFFIXES)} file of the split {split!r} (source.split); "
            f"the folder holds {held}"
        )
    kinds = {p.name.removesuffix(".gz").rpartition(".")[2].replace("jsonl", "json") for p in files}
    if len(kinds) > 1:
        raise DataError(
            f"{folder}: holds files of several kinds, perhaps the same rows: "
            f"{', '.join(p.name for p in files[:5])}; name one of them, or a folder of one kind"
        )
    return files


def _read_files(files: Mapping[str, Path], delimiter: str | None = None) -> Objects:
    for address, file in files.items():
        if file.suffix == ".arrow":
            table = _open(str(file), partial(datasets.Dataset.from_file, str(file)))
            yield from _table_rows(table, str(file))
        else:
            yield from file_rows(file, address, delimiter)


def _saved_rows(folder: Path) -> Objects:
    """Rows that `save_to_disk` has written; none of their files may lie elsewhere."""
    table = _open(str(folder), partial(datasets.load_from_disk, str(folder)))
    for file in table.cache_files:
        if Path(file["filename"]).resolve().parent != folder.resolve():
            raise DataError(f"{folder / SAVED}: names a file elsewhere: {file['filename']}")
    yield from _table_rows(table, str(folder))


def _hub(path: str, split: str) -> Source:
    name, _, part = path.partition(":")
    chosen: dict[str, Any] = {"name": part or None}
    if part.endswith(SUFFIXES):
        chosen, split = {"data_files": part}, "train"
    found = _open(path, partial(split_files, name, split, **chosen))
    if found is None:
        table = _open(path, partial(datasets.load_dataset, name, split=split, **chosen))
        return Source({path: table._fingerprint}, partial(_table_rows, table, path))
    files, delimiter = found
    inputs = {address: fingerprint(file) for address, file in files.items()}
    return Source(inputs, partial(_read_files, files, delimiter))


def _open(place: str, load: Callable[[], T]) -> T:
    try:
        return load()
    except (OSError, ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{place}: cannot be read as a dataset ({reason})") from None


def _table_rows(table: datasets.Dataset, place: str) -> Objects:
    """The rows as they are stored: nothing is decoded, and no format of the dataset is applied."""
    return numbered_rows(lambda: table.with_format("arrow").iter(ROWS_AT_ONCE), place)
