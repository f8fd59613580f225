"""Rows as memory-mapped Arrow tables in the cache of `datasets`, keyed by content, not by time."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from tdro_lightning.data.text_tables import SUFFIXES
from tdro_lightning.errors import DataError


def text_columns(*names: str) -> datasets.Features:
    """Columns of text."""
    return datasets.Features({name: datasets.Value("string") for name in names})


def cached_table(
    rows: Callable[..., Iterator[dict[str, Any]]],
    arguments: dict[str, Any],
    features: datasets.Features,
    content: str,
) -> datasets.Dataset:
    """The table of some rows, from the cache where it is there.

    A table is written row by row, and is in the cache once it is whole. Where several processes
    want it, one writes it and the others wait.

    Args:
        rows: yields the rows; it may raise a DataError.
        arguments: what `rows` is called with.
        features: columns and their types.
        content: says what the rows are: equal content and features are an equal table.

    Raises:
        DataError: as `rows` does; nothing is cached then.
    """
    try:
        with without_bars():
            return datasets.Dataset.from_generator(
                rows,
                features=features,
                gen_kwargs=arguments,
                fingerprint=hashlib.sha256(f"{content} {features}".encode()).hexdigest()[:32],
            )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise


class TextFiles(NamedTuple):
    """Local files of a dataset's split by their addresses, and what divides their cells if any."""

    files: dict[str, Path]
    delimiter: str | None


def text_files(path: str, split: str | None, **chosen: Any) -> TextFiles | None:
    """The JSON or `.csv` files of a split, for `text_objects`; None where it has other files.

    Args:
        path: folder or hub dataset, as `load_dataset` of `datasets` takes it.
        split: of the dataset; its only one where that is not there or None.
        chosen: `name` or `data_files`, as in `load_dataset`.

    Raises:
        DataError: there is no such split, and there are several.
        OSError, ValueError: as in `load_dataset`.
    """
    builder = datasets.load_dataset_builder(path, **chosen)
    kind = type(builder).__module__.rpartition(".")[2]
    splits = builder.config.data_files
    if kind not in ("json", "csv") or getattr(builder.config, "field", None) is not None:
        return None
    if split not in splits and len(splits) > 1:
        raise DataError(f"{path}: there is no split {split!r}; it has {', '.join(splits)}")
    addresses = list(map(str, splits[split if split in splits else next(iter(splits))]))
    if not all(address.endswith(SUFFIXES) for address in addresses):
        return None
    local = datasets.DownloadManager().download(addresses)
    delimiter = builder.config.sep if kind == "csv" and builder.config.sep != "," else None
    return TextFiles(dict(zip(addresses, map(Path, local), strict=True)), delimiter)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep the library's progress bars off the terminal."""
    progress = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if progress:
            datasets.enable_progress_bars()
