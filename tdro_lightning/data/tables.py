"""Rows as memory-mapped Arrow tables in the cache of `datasets`, keyed by content, not by time."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import datasets

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
