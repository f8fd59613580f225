"""Embeddings in files of equal height, each with its checksum beside it."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint, whole_file
from tdro_lightning.records.receipts import finished_result, read_receipt, write_receipt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shards:
    """Embeddings [N, D] in memory-mapped files; a slice of rows reads those rows only.

    Attributes:
        folder: of the files; its name says what they are embeddings of.
        rows: N.
        shard_rows: rows in each file but the last.
        dtype: `float16` or `float32`.
    """

    folder: Path
    rows: int
    shard_rows: int
    dtype: str = "float32"

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and dimension."""
        return self.rows, self._read(0).shape[1]

    @property
    def count(self) -> int:
        """Number of files."""
        return -(-self.rows // self.shard_rows)

    @property
    def digest(self) -> str:
        """SHA-256 of the checksums of all files, which must be there."""
        checksums = (fingerprint(self._receipt(shard)) for shard in range(self.count))
        return hashlib.sha256("".join(checksums).encode()).hexdigest()

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice) -> NDArray[np.floating[Any]]:
        """Rows of a slice of step 1 that holds at least one, [R, D].

        Raises:
            DataError: a file is missing or damaged.
        """
        first, last, _ = rows.indices(self.rows)
        parts = []
        for shard in range(first // self.shard_rows, -(-last // self.shard_rows)):
            start = shard * self.shard_rows
            parts.append(self._read(shard)[max(first - start, 0) : last - start])
        return np.concatenate(parts)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows [R] in the order given, [R, D] float32; of each file only these are read.

        Raises:
            DataError: a file is missing or damaged.
        """
        taken = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        shards = rows // self.shard_rows
        for shard in np.unique(shards).tolist():
            own = np.flatnonzero(shards == shard)
            taken[own] = self._read(shard)[rows[own] - shard * self.shard_rows]
        return taken

    def span(self, shard: int) -> slice:
        """The rows of a file."""
        return slice(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows))

    def has(self, shard: int) -> bool:
        """Whether a file is there as it was written; one that is not is reported."""
        if finished_result(self._receipt(shard), self._made_from(shard)) is not None:
            return True
        if self._file(shard).exists() and not self._receipt(shard).exists():
            logger.warning("%s: has no checksum; made again", self._file(shard))
        return False

    def write(self, shard: int, embeddings: NDArray[np.floating[Any]]) -> None:
        """Write a file; it appears under its name once it is whole and on the disk.

        Raises:
            ValueError: there are not as many embeddings as the file has rows.
        """
        path, rows = self._file(shard), self.span(shard)
        if embeddings.ndim != 2 or len(embeddings) != rows.stop - rows.start:
            raise ValueError(f"{rows.stop - rows.start} texts have embeddings {embeddings.shape}")
        with whole_file(path) as stream:
            np.save(stream, embeddings.astype(self.dtype, copy=False))
        write_receipt(self._receipt(shard), self._made_from(shard), [path])

    def _file(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.npy"

    def _receipt(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.json"

    def _made_from(self, shard: int) -> dict[str, Any]:
        return {"embeddings": self.folder.name, "shard": shard}

    def _read(self, shard: int) -> NDArray[np.floating[Any]]:
        """A file as a memory map, once its checksum is found to be right."""
        path = self._file(shard)
        if read_receipt(self._receipt(shard), self._made_from(shard)) is None:
            raise DataError(f"{path}: these embeddings have no checksum; run the command again")
        return np.lib.format.open_memmap(path, mode="r")
