"""Sparse embeddings in files: few terms of a large vocabulary, each with a positive weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tdro_lightning.errors import DataError
from tdro_lightning.search.encoding import Shards

# How a weight is stored, by the name of the option.
STORED = {"float32": np.float32, "float16": np.float16, "int8": np.uint8}
STEPS = 255  # in the largest weight in 8 bits, at most
SMALLEST = -149  # exponent of the least float32


@dataclass(frozen=True)
class StoredRows:
    """Sparse rows [R, V] as they lie in a file.

    In 8 bits a weight is a number of steps. A document's step is the least power of two of which
    255 reach its largest weight: so a rounded weight is at most half a step, which is less than
    1/255 of that largest one, from the true one, whatever other documents are in the file, and
    multiplying by the step rounds nothing.

    Attributes:
        starts: int64 [R + 1], where each row's terms begin among all.
        terms: int32 [P], ascending in a row.
        values: [P] of one of the types in `STORED`.
        steps: float32 [R] that the values are multiplied by; in 8 bits only, otherwise [0].
        vocabulary: V.
    """

    starts: NDArray[np.int64]
    terms: NDArray[np.int32]
    values: NDArray[Any]
    steps: NDArray[np.float32]
    vocabulary: int

    @classmethod
    def from_rows(cls, rows: csr_array, weights: str) -> Self:
        """Round the weights of rows [R, V]; those that become zero are dropped.

        Raises:
            DataError: a weight is too large for its type.
        """
        values, steps = rows.data, np.empty(0, dtype=np.float32)
        if weights == "int8":
            owners = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
            largest = np.zeros(rows.shape[0], dtype=np.float32)
            np.maximum.at(largest, owners, values)
            steps = _steps(largest)
            values = np.rint(values / steps[owners])
        elif weights == "float16" and values.max(initial=0) > np.finfo(np.float16).max:
            raise DataError(
                f"the weight {values.max():g} is too large for float16; store weights in float32"
            )
        values = values.astype(STORED[weights])
        kept = values != 0
        starts = np.concatenate([[0], np.cumsum(kept)])[rows.indptr]
        terms = rows.indices[kept].astype(np.int32)
        return cls(starts, terms, values[kept], steps, rows.shape[1])

    def take(self, rows: NDArray[np.int64]) -> csr_array:
        """Some rows [K] in the order given, [K, V] float32."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], lengths)
        values = self.values[places].astype(np.float32)
        if len(self.steps):
            values *= np.repeat(self.steps[rows], lengths)
        shape = (len(rows), self.vocabulary)
        taken = csr_array((values, self.terms[places], starts), shape)
        taken.has_canonical_format = True
        return taken

    def part(self, first: int, last: int) -> "StoredRows":
        """The rows from one up to another, which is left out."""
        start, end = self.starts[first], self.starts[last]
        return StoredRows(
            self.starts[first : last + 1] - start,
            self.terms[start:end],
            self.values[start:end],
            self.steps[first:last],
            self.vocabulary,
        )


class SparseShards(Shards):
    """Sparse embeddings [N, V] in memory-mapped files; `dtype` is one of `STORED`."""

    suffix = ".csr"

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and size of the vocabulary."""
        return self.rows, self._read(0).vocabulary

    @property
    def row_bytes(self) -> int:
        """Size of a row of the first file, on average and rounded up."""
        rows = self.span(0)
        return -(-self._file(0).stat().st_size // (rows.stop - rows.start))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of terms of each row, [N]."""
        return np.concatenate([np.diff(self._read(shard).starts) for shard in range(self.count)])

    def __getitem__(self, rows: slice) -> csr_array:
        """Rows of a slice of step 1 that holds at least one, [R, V] float32."""
        stored = self.stored(rows)
        return stored.take(np.arange(len(stored.starts) - 1))

    def take(self, rows: NDArray[np.int64]) -> csr_array:
        """Some rows [R] in the order given, [R, V] float32; of each file only these are read."""
        if not len(rows):
            return csr_array((0, self.shape[1]), dtype=np.float32)
        shards = rows // self.shard_rows
        numbers = np.unique(shards).tolist()
        own = [np.flatnonzero(shards == shard) for shard in numbers]
        parts = [
            self._read(shard).take(rows[places] - shard * self.shard_rows)
            for shard, places in zip(numbers, own, strict=True)
        ]
        return stack_rows(parts)[np.argsort(np.concatenate(own))]

    def stored(self, rows: slice) -> StoredRows:
        """Rows of a slice of step 1 that holds at least one, as they lie in the files.

        Raises:
            DataError: a file is missing or damaged, or the files have different vocabularies.
        """
        first, last, _ = rows.indices(self.rows)
        parts = []
        for shard in range(first // self.shard_rows, -(-last // self.shard_rows)):
            start = shard * self.shard_rows
            whole = self._read(shard)
            end = min(last - start, len(whole.starts) - 1)
            parts.append(whole.part(max(first - start, 0), end))
        sizes = {part.vocabulary for part in parts}
        if len(sizes) > 1:
            raise DataError(f"{self.folder}: embeddings of different vocabularies {sorted(sizes)}")
        counts = np.concatenate([np.diff(part.starts) for part in parts])
        return StoredRows(
            np.concatenate([[0], np.cumsum(counts)]),
            np.concatenate([part.terms for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.steps for part in parts]),
            sizes.pop(),
        )

    def _save(self, stream: BinaryIO, embeddings: csr_array) -> None:
        rows = StoredRows.from_rows(embeddings, self.dtype)
        size = np.array([rows.vocabulary])
        write_arrays(stream, rows.starts, size, rows.steps, rows.terms, rows.values)

    def _open(self, path: Path) -> StoredRows:  # type: ignore[override]
        starts, size, steps, terms, values = read_arrays(path)
        return StoredRows(starts, terms, values, steps, int(size[0]))


def canonical(
    embeddings: Any, texts: Sequence[str], kind: str, terms: int | None = None
) -> csr_array:
    """Check sparse embeddings, order their terms, and keep the largest.

    Args:
        embeddings: [B, V] of any format of scipy; zeros are dropped.
        texts: whose they are.
        kind: of the texts, in messages.
        terms: that a text keeps at most: those of the largest weights, of equal ones those of the
            lower numbers; None keeps all.

    Returns:
        The embeddings as CSR in float32.

    Raises:
        DataError: a weight is NaN, infinite or below zero.
    """
    rows = csr_array(embeddings, dtype=np.float32, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    owners = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    broken = np.unique(owners[~((rows.data > 0) & np.isfinite(rows.data))])
    if len(broken):
        raise DataError(
            f"{len(broken)} of {len(texts)} {kind} embeddings hold NaN, infinity or a weight below "
            f"0, first that of {texts[broken[0]][:60]!r}"
        )
    if terms is None or not len(owners) or np.diff(rows.indptr).max() <= terms:
        return rows
    order = np.lexsort((rows.indices, -rows.data, owners))
    place = np.arange(len(order)) - rows.indptr[owners]  # `owners` is the same in this order
    rows.data[order[place >= terms]] = 0
    rows.eliminate_zeros()
    return rows


def stack_rows(parts: Sequence[csr_array]) -> csr_array:
    """Rows of several arrays below each other; `scipy.sparse.vstack` would forget their order."""
    counts = np.concatenate([np.diff(part.indptr) for part in parts])
    rows = csr_array(
        (
            np.concatenate([part.data for part in parts]),
            np.concatenate([part.indices for part in parts]),
            np.concatenate([[0], np.cumsum(counts)]),
        ),
        (len(counts), parts[0].shape[1]),
    )
    rows.has_canonical_format = True
    return rows


def write_arrays(stream: BinaryIO, *arrays: NDArray[Any]) -> None:
    """Write arrays of one dimension into one file, each as `np.save` would.

    Those with wider values come first, so that each begins at a multiple of its values' size.
    """
    for array in arrays:
        np.save(stream, array)


def read_arrays(path: Path) -> list[NDArray[Any]]:
    """The arrays in a file of `write_arrays`, read from the disk when they are used."""
    arrays: list[NDArray[Any]] = []
    content = np.memmap(path, dtype=np.uint8, mode="r")
    with path.open("rb") as stream:
        while stream.tell() < len(content):
            np.lib.format.read_magic(stream)
            (count,), _, dtype = np.lib.format.read_array_header_1_0(stream)
            start = stream.tell()
            end = start + count * dtype.itemsize
            # A plain array: slicing a `memmap` takes several times as long.
            arrays.append(np.asarray(content[start:end]).view(np.ndarray).view(dtype))
            stream.seek(end)
    return arrays


def _steps(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """The least power of two of which `STEPS` reach each number; 1 for zero."""
    fraction, exponent = np.frexp(largest.astype(np.float64) / STEPS)
    exponent = np.maximum(exponent - (fraction == 0.5), SMALLEST)
    return np.where(largest > 0, np.ldexp(np.float32(1), exponent), 1).astype(np.float32)
