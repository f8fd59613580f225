"""The ordered catalogue of domains, and their rows as memory-mapped tables."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from tdro_lightning.data.domain_files import chosen_domains, domain_file
from tdro_lightning.data.example import Row
from tdro_lightning.data.jsonl import examine_lines
from tdro_lightning.data.randomness import choose_rows
from tdro_lightning.data.tables import cached_rows, cached_table, text_columns
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.files import fingerprint

logger = logging.getLogger(__name__)

_PASSAGES = [{**text_columns("docid", "title", "text"), "score": datasets.Value("float64")}]
FEATURES = datasets.Features(
    {
        "line": datasets.Value("int64"),
        **text_columns("query_id", "query"),
        "positive_passages": _PASSAGES,
        "negative_passages": _PASSAGES,
    }
)
# Of what is made of a line: tables in the cache that were made otherwise are not used.
ROWS_VERSION = 3
_FAULTS = text_columns("kind", "fault")


@dataclass(frozen=True)
class SkippedRow:
    """A row that is left out: its file's place, its line, the kind of fault and what it is."""

    place: str
    line: int
    kind: str
    fault: str

    def __str__(self) -> str:
        return f"{self.place}:{self.line}: {self.fault}"


@dataclass(frozen=True)
class Domain:
    """One training dataset.

    Args:
        name: its name in every file.
        place: local file, or `hub name:file` for rows from a hub dataset.
        prompts: query instructions; one of them is drawn for each query.
        symmetric: query and passage are of one kind (paraphrases, duplicates).
        table: its rows, memory-mapped, columns as in `FEATURES`.
        fingerprint: SHA-256 of the file.
        skipped: rows of the file that are not in the table.
    """

    name: str
    place: str
    prompts: tuple[str, ...]
    symmetric: bool
    table: datasets.Dataset
    fingerprint: str
    skipped: tuple[SkippedRow, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def require_negatives(self) -> None:
        """Refuse rows without a hard negative.

        Raises:
            DataError: names the file and the first such line.
        """
        bare = self._without_negatives()
        if len(bare):
            line = self.table[int(bare[0])]["line"]
            raise DataError(
                f"{self.place}:{line}: `negative_passages` is empty in {len(bare)} rows; "
                "hard negatives are needed here: mine them (stage=mine) or set data.negatives=0"
            )

    def with_negatives(self) -> "Domain":
        """The domain without its rows that have no hard negative."""
        bare = self._without_negatives()
        if not len(bare):
            return self
        kind, message = "no negative", "`negative_passages` is empty; hard negatives are needed"
        lines = self.table.select(bare)["line"]
        skipped = [*self.skipped, *(SkippedRow(self.place, i, kind, message) for i in lines)]
        return replace(
            self,
            table=cached_rows(self.table, np.delete(np.arange(len(self)), bare)),
            skipped=tuple(sorted(skipped, key=lambda row: row.line)),
        )

    def drawn(self, count: int) -> "Domain":
        """The domain with so many of its rows, drawn by its name, so always the same ones."""
        return replace(
            self,
            table=cached_rows(self.table, choose_rows(self.name, len(self), count)),
            fingerprint=hashlib.sha256(f"{self.fingerprint} {count} rows".encode()).hexdigest(),
        )

    def require_few_skipped(self, most: int) -> None:
        """Refuse a domain of which nothing, or more than `most` rows less than all, is left.

        Raises:
            DataError: names the first row that was skipped.
        """
        if not len(self) or len(self.skipped) > most:
            rows = len(self) + len(self.skipped)
            raise DataError(
                f"domain {self.name}: {len(self.skipped)} of {rows} rows cannot be used, and "
                f"data.max_bad_rows={most} may be skipped; the first is {self.skipped[0]}"
            )

    def _without_negatives(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Indices of the rows without a hard negative."""
        counts = pc.list_value_length(self.table.data.column("negative_passages"))
        return np.flatnonzero(counts.to_numpy() == 0)


def load_domains(
    catalogue: Mapping[str, Mapping[str, Any]],
    *,
    root: str,
    hub: str | None,
    only: list[str] | None,
    rows: Mapping[str, int] | None = None,
    skip: bool = False,
) -> list[Domain]:
    """Load the rows of the catalogued domains, every line checked once.

    Args:
        catalogue: domain name to `file`, `prompts` and `symmetric`, in index order.
        root: folder of the files.
        hub: hub dataset (or local copy of one) that holds the files instead of `root`.
        only: the domains to load; None loads all.
        rows: domain name to the number of rows to keep, drawn by the name; others keep all.
        skip: leave rows out that break the format, instead of refusing the file.

    Raises:
        ConfigError: `only` or `rows` names a domain that the catalogue lacks, or `rows` asks for
            no row or for more than there are.
        DataError: a missing file, or a row that breaks the format and is not skipped.
    """
    for name in rows or {}:
        if name not in catalogue:
            raise ConfigError(
                f"domains.rows names {[name]}, not in the catalogue; it has {list(catalogue)}"
            )
    loaded = []
    for name in chosen_domains(catalogue, only):
        entry = catalogue[name]
        file, place = domain_file(entry["file"], root, hub)
        table, content, skipped = _file_table(file, place, skip)
        if rows and name in rows:
            count = rows[name]
            if not 1 <= count <= len(table):
                raise ConfigError(
                    f"domains.rows.{name}={count} must be from 1 to its {len(table)} rows"
                )
        prompts = tuple(entry["prompts"])
        domain = Domain(name, place, prompts, entry["symmetric"], table, content, skipped)
        loaded.append(domain.drawn(rows[name]) if rows and name in rows else domain)
        logger.info("domain %s: %d rows from %s", name, len(loaded[-1]), place)
    return loaded


def open_domain(file: str, root: str, hub: str | None) -> tuple[str, Iterator[Row]]:
    """A domain's fingerprint, and an iterator over its rows that checks each.

    Args:
        file: of the domain, in the folder `root` or in the hub dataset.
        root, hub: as in `load_domains`.

    Raises:
        DataError: as in `load_domains`, for bad rows when they come.
    """
    path, place = domain_file(file, root, hub)
    return fingerprint(path), (row for _, row in _rows(path, place))


def _file_table(
    path: Path, place: str, skip: bool
) -> tuple[datasets.Dataset, str, tuple[SkippedRow, ...]]:
    """Rows of a file through the Arrow cache, its fingerprint, and the rows left out."""
    content = fingerprint(path)
    key = f"{content} {ROWS_VERSION}"
    if not skip:
        rows = ({"line": line, **row} for line, row in _rows(path, place))
        return cached_table(rows, FEATURES, key), content, ()
    features = datasets.Features({**FEATURES, **_FAULTS})
    table = cached_table(_rows_and_faults(path, place), features, key)
    faulty = np.flatnonzero(table.data.column("fault").is_valid().to_numpy())
    faults = table.select(faulty).select_columns(["line", "kind", "fault"])
    skipped = sorted((SkippedRow(place, **fault) for fault in faults), key=lambda row: row.line)
    table = table.remove_columns(list(_FAULTS))
    if skipped:
        lines = table.data.column("line").to_numpy()
        table = cached_rows(table, np.flatnonzero(~np.isin(lines, [r.line for r in skipped])))
    return table, content, tuple(skipped)


def _rows_and_faults(path: Path, place: str) -> Iterator[dict[str, Any]]:
    """Rows of a file with their line numbers, and for lines that cannot be used the fault.

    A row whose id an earlier one has comes as a row, and again at the end as a fault of its line.
    """
    empty: dict[str, Any] = {**dict.fromkeys(FEATURES), "positive_passages": []}
    for line in examine_lines(path, place):
        row = line.row or {**empty, "negative_passages": []}
        kind = line.fault and line.fault.kind
        fault = line.fault and str(line.fault).removeprefix(f"{place}:{line.number}: ")
        yield {**row, "line": line.number, "kind": kind, "fault": fault}


def _rows(path: Path, place: str) -> Iterator[tuple[int, Row]]:
    unread: dict[str, int] = {}
    false_negatives = 0
    for line in examine_lines(path, place):
        if line.fault is not None:
            raise line.fault
        assert line.row is not None
        for key in line.unread:
            unread.setdefault(key, line.number)
        false_negatives += line.false_negatives
        yield line.number, line.row
    if unread:
        logger.info("%s: keys that are not read, with their first line: %s", place, unread)
    if false_negatives:
        logger.info("%s: %d negatives that equal a positive left out", place, false_negatives)
