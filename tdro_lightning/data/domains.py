"""The ordered catalogue of domains, and their rows as memory-mapped tables."""

import hashlib
import logging
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from tdro_lightning.data.example import Row
from tdro_lightning.data.jsonl import check_row, read_rows
from tdro_lightning.data.randomness import generator
from tdro_lightning.data.tables import cached_table, without_bars
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.files import fingerprint

logger = logging.getLogger(__name__)

_PASSAGES = [
    {
        "docid": datasets.Value("string"),
        "title": datasets.Value("string"),
        "text": datasets.Value("string"),
        "score": datasets.Value("float64"),
    }
]
FEATURES = datasets.Features(
    {
        "line": datasets.Value("int64"),
        "query_id": datasets.Value("string"),
        "query": datasets.Value("string"),
        "positive_passages": _PASSAGES,
        "negative_passages": _PASSAGES,
    }
)


@dataclass(frozen=True)
class Domain:
    """One training dataset.

    Args:
        name: its name in every file.
        place: local file, or `hub name:file` for rows from a hub dataset.
        prompts: query instructions; one of them is drawn for each query.
        symmetric: query and passage are of one kind (paraphrases, duplicates).
        table: its rows, memory-mapped, columns as in `FEATURES`.
        fingerprint: SHA-256 of the file, or the hub dataset's fingerprint.
    """

    name: str
    place: str
    prompts: tuple[str, ...]
    symmetric: bool
    table: datasets.Dataset
    fingerprint: str

    def __len__(self) -> int:
        return len(self.table)

    def require_negatives(self) -> None:
        """Refuse rows without a hard negative.

        Raises:
            DataError: names the file and the first such line.
        """
        counts = np.concatenate(
            [
                pc.list_value_length(chunk).to_numpy(zero_copy_only=False)
                for chunk in self.table.data.column("negative_passages").chunks
            ]
        )
        bare = np.flatnonzero(counts == 0)
        if len(bare):
            line = self.table[int(bare[0])]["line"]
            raise DataError(
                f"{self.place}:{line}: `negative_passages` is empty in {len(bare)} rows; "
                "hard negatives are needed here: mine them (stage=mine) or set data.negatives=0"
            )


def load_domains(
    catalogue: Mapping[str, Mapping[str, Any]],
    *,
    root: str,
    hub: str | None,
    only: list[str] | None,
    rows: Mapping[str, int] | None = None,
) -> list[Domain]:
    """Load the rows of the catalogued domains, every line checked once.

    Args:
        catalogue: domain name to `file`, `prompts` and `symmetric`, in index order.
        root: folder of the files.
        hub: hub dataset (or folder in its layout) that holds the files instead of `root`.
        only: the domains to load; None loads all.
        rows: domain name to the number of rows to keep, drawn by the name; others keep all.

    Raises:
        ConfigError: `only` or `rows` names a domain that the catalogue lacks, or `rows` asks for
            no row or for more than there are.
        DataError: a missing file or a row that breaks the format.
    """
    for name in rows or {}:
        if name not in catalogue:
            raise ConfigError(
                f"domains.rows names {[name]}, not in the catalogue; it has {list(catalogue)}"
            )
    loaded = []
    for name in chosen_domains(catalogue, only):
        entry = catalogue[name]
        place = f"{hub}:{entry['file']}" if hub else str(Path(root) / entry["file"])
        table, content = (
            _hub_table(hub, entry["file"]) if hub else _file_table(Path(root) / entry["file"])
        )
        if rows and name in rows:
            table, content = _part(name, table, content, rows[name])
        prompts = tuple(entry["prompts"])
        loaded.append(Domain(name, place, prompts, bool(entry["symmetric"]), table, content))
        logger.info("domain %s: %d rows from %s", name, len(table), place)
    return loaded


def _part(
    name: str, table: datasets.Dataset, content: str, count: int
) -> tuple[datasets.Dataset, str]:
    """So many rows of a table in its order, drawn by the domain's name alone."""
    if not 1 <= count <= len(table):
        raise ConfigError(f"domains.rows.{name}={count} must be from 1 to its {len(table)} rows")
    drawn = sorted(generator(0, f"rows {name}").permutation(len(table))[:count].tolist())
    with without_bars():
        kept = table.select(drawn).flatten_indices()
    return kept, hashlib.sha256(f"{content} {count} rows".encode()).hexdigest()


def chosen_domains(catalogue: Mapping[str, Any], only: list[str] | None) -> list[str]:
    """Names of the domains to load, in index order.

    Raises:
        ConfigError: `only` names a domain that the catalogue lacks.
    """
    chosen = list(catalogue) if only is None else only
    unknown = [name for name in chosen if name not in catalogue]
    if unknown:
        raise ConfigError(
            f"domains.only names {unknown}, not in the catalogue; it has {list(catalogue)}"
        )
    return chosen


def domain_rows(file: str, root: str, hub: str | None) -> tuple[str, Iterator[Row]]:
    """A domain's fingerprint, and its rows one after the other, each checked as it comes.

    Args:
        file: of the domain, in the folder `root` or in the hub dataset.
        root, hub: as in `load_domains`.

    Raises:
        DataError: as in `load_domains`, for bad rows when they come.
    """
    if hub:
        source = _hub_source(hub, file)
        return source._fingerprint, (row for _, row in _numbered(f"{hub}:{file}", source))
    path = _existing(Path(root) / file)
    return fingerprint(path), (row for _, row in _numbered(str(path), None))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: no such file; set domains.root to the folder of the domain files")
    return path


def _file_table(path: Path) -> tuple[datasets.Dataset, str]:
    """Rows of a local file through the Arrow cache."""
    content = fingerprint(_existing(path))
    return cached_table(checked_rows, {"path": str(path)}, FEATURES, content), content


def _hub_table(hub: str, file: str) -> tuple[datasets.Dataset, str]:
    """Rows of one file of a hub dataset, or of a folder in a hub dataset's layout."""
    source = _hub_source(hub, file)
    content = source._fingerprint
    arguments = {"path": f"{hub}:{file}", "source": source}
    return cached_table(checked_rows, arguments, FEATURES, content), content


def _hub_source(hub: str, file: str) -> datasets.Dataset:
    try:
        return datasets.load_dataset(hub, data_files=file, split="train")
    except (FileNotFoundError, ConnectionError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"domains.hub={hub}: cannot read {file} ({error})") from None
    except StopIteration:  # the library's answer to an empty file
        raise DataError(f"{hub}:{file}: no rows in it") from None


def checked_rows(path: str, source: datasets.Dataset | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a file (or of `source`) with their line numbers; query ids must be distinct.

    Raises:
        DataError: a bad row, a query id that stands twice, or no row at all.
    """
    for line, row in _numbered(path, source):
        yield {"line": line, **row}


def _numbered(path: str, source: datasets.Dataset | None) -> Iterator[tuple[int, Row]]:
    numbered: Iterator[tuple[int, Row]]
    if source is None:
        numbered = read_rows(Path(path))
    else:
        numbered = ((i, check_row(r, f"{path}:{i}")) for i, r in enumerate(source, start=1))
    # 16 bytes a row, so that the check fits in memory for tens of millions of rows.
    hashes, lines = array("q"), array("q")
    for line, row in numbered:
        hashes.append(hash(row["query_id"]))
        lines.append(line)
        yield line, row
    if not lines:
        raise DataError(f"{path}: no rows in it")
    _refuse_twins(np.array(hashes), np.array(lines), path)


def _refuse_twins(hashes: NDArray[np.int64], lines: NDArray[np.int64], path: str) -> None:
    order = np.argsort(hashes, kind="stable")
    twins = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    if len(twins):
        # The order is stable, so that of two neighbours the later one has the later line.
        nearest = twins[np.argmin(lines[order[twins + 1]])]
        first, second = lines[order[nearest]], lines[order[nearest + 1]]
        raise DataError(
            f"{path}:{second}: `query_id` stands in line {first} already; ids must be distinct"
        )
