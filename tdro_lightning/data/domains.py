"""The ordered catalogue of domains, and their rows as memory-mapped tables."""

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
from tdro_lightning.data.tables import cached_table
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
) -> list[Domain]:
    """Load the rows of the catalogued domains, every line checked once.

    Args:
        catalogue: domain name to `file`, `prompts` and `symmetric`, in index order.
        root: folder of the files.
        hub: hub dataset (or folder in its layout) that holds the files instead of `root`.
        only: the domains to load; None loads all.

    Raises:
        ConfigError: `only` names a domain that the catalogue lacks.
        DataError: a missing file or a row that breaks the format.
    """
    chosen = list(catalogue) if only is None else only
    unknown = [name for name in chosen if name not in catalogue]
    if unknown:
        raise ConfigError(
            f"domains.only names {unknown}, not in the catalogue; it has {list(catalogue)}"
        )
    loaded = []
    for name in chosen:
        entry = catalogue[name]
        place = f"{hub}:{entry['file']}" if hub else str(Path(root) / entry["file"])
        table, content = (
            _hub_table(hub, entry["file"]) if hub else _file_table(Path(root) / entry["file"])
        )
        prompts = tuple(entry["prompts"])
        loaded.append(Domain(name, place, prompts, bool(entry["symmetric"]), table, content))
        logger.info("domain %s: %d rows from %s", name, len(table), place)
    return loaded


def _file_table(path: Path) -> tuple[datasets.Dataset, str]:
    """Rows of a local file through the Arrow cache."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; set domains.root to the folder of the domain files")
    content = fingerprint(path)
    return cached_table(checked_rows, {"path": str(path)}, FEATURES, content), content


def _hub_table(hub: str, file: str) -> tuple[datasets.Dataset, str]:
    """Rows of one file of a hub dataset, or of a folder in a hub dataset's layout."""
    try:
        source = datasets.load_dataset(hub, data_files=file, split="train")
    except (FileNotFoundError, ConnectionError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"domains.hub={hub}: cannot read {file} ({error})") from None
    except StopIteration:  # the library's answer to an empty file
        raise DataError(f"{hub}:{file}: no rows in it") from None
    content = source._fingerprint
    arguments = {"path": f"{hub}:{file}", "source": source}
    return cached_table(checked_rows, arguments, FEATURES, content), content


def checked_rows(path: str, source: datasets.Dataset | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a file (or of `source`) with their line numbers; query ids must be distinct.

    Raises:
        DataError: a bad row, a query id that stands twice, or no row at all.
    """
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
        yield {"line": line, **row}
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
