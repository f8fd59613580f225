"""JSON objects from a file, a folder of files, or a hub dataset."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from tdro_lightning.data.jsonl import read_objects
from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
SPLITS = ("train", "validation", "valid", "dev", "test")

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:.+)?")

Objects = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Source:
    """Objects that can be read again and again.

    Attributes:
        inputs: SHA-256 of each file, or the fingerprint of a hub dataset.
        read: yields each object with its place, for messages: file or dataset, and line.
    """

    inputs: dict[str, str]
    read: Callable[[], Objects]


def source(path: str, split: str) -> Source:
    """The objects of a file, of a folder's files, or of a hub dataset.

    Args:
        path: a file of JSON lines (also gzipped) or a parquet file; a folder of such files, where
            files named after a split (`train-00000.parquet`) are read for theirs only; or a hub
            dataset `OWNER/NAME`, with `:CONFIG` or `:FILE` where it has several.
        split: of the hub dataset or folder.

    Raises:
        DataError: nothing of the kind is there, or it cannot be read.
    """
    local = Path(path)
    if local.is_file():
        files = [local]
    elif local.is_dir():
        files = _files(local, split)
    elif _HUB_NAME.fullmatch(path) and not path.partition(":")[0].endswith(SUFFIXES):
        return _hub(path, split)
    else:
        raise DataError(f"{path}: no such file or folder, and no hub dataset (OWNER/NAME)")
    inputs = {str(file): fingerprint(file) for file in files}
    return Source(inputs, partial(_read_files, files))


def _files(folder: Path, split: str) -> list[Path]:
    found = sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(SUFFIXES))
    if any(p.name.startswith(SPLITS) for p in found):
        found = [p for p in found if p.name.startswith(split)]
    if not found:
        held = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise DataError(
            f"{folder}: no {', '.join(SUFFIXES)} file of the split {split!r} (source.split); "
            f"the folder holds {held}"
        )
    return found


def _read_files(files: list[Path]) -> Objects:
    for file in files:
        if file.suffix == ".parquet":
            yield from _rows(_load("parquet", str(file), data_files=str(file)), str(file))
        else:
            for number, value in read_objects(file):
                yield f"{file}:{number}", value


def _hub(path: str, split: str) -> Source:
    name, _, part = path.partition(":")
    if part.endswith(SUFFIXES):
        table = _load(name, path, data_files=part)
    else:
        table = _load(name, path, name=part or None, split=split)
    return Source({path: table._fingerprint}, partial(_rows, table, path))


def _load(builder: str, place: str, **arguments: Any) -> datasets.Dataset:
    try:
        return datasets.load_dataset(builder, **{"split": "train", **arguments})
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{place}: cannot be read as a dataset ({reason})") from None


def _rows(table: datasets.Dataset, place: str) -> Objects:
    for number, value in enumerate(table, start=1):
        yield f"{place}:{number}", value
