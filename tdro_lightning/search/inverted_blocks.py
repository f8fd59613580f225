"""Inverted indexes of consecutive documents in files: the documents of each term, with weights."""

import logging
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from tdro_lightning.errors import DataError
from tdro_lightning.files import settled_state, whole_file
from tdro_lightning.records.receipts import finished_result, read_receipt, write_receipt
from tdro_lightning.search.sparse_files import SparseShards, read_arrays, write_arrays

ONE = np.ones(1, dtype=np.float32)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InvertedBlock:
    """The inverted index of consecutive documents, in one file.

    Attributes:
        path: of the file.
        made_from: what its receipt says.
        first, last: the documents are those from one up to the other, which is left out.
    """

    path: Path
    made_from: dict[str, Any]
    first: int
    last: int
    _opened: dict[tuple[Any, ...], list[NDArray[Any]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def write(self, documents: SparseShards) -> None:
        """Write the file unless it is there as it was written; damage is reported."""
        if self.path.exists() and not self._receipt.exists():
            logger.warning("%s: has no checksum; made again", self.path)
        if finished_result(self._receipt, self.made_from) is not None:
            return
        logger.info("inverted index: documents %s to %s", f"{self.first:,}", f"{self.last:,}")
        rows = documents.stored(slice(self.first, self.last))
        shape = (self.last - self.first, rows.vocabulary)
        # Not every type of numbers has sparse arrays; the bits of a weight are a number as well.
        bits = rows.values.view(f"u{rows.values.itemsize}")
        columns = csr_array((bits, rows.terms, rows.starts), shape).tocsc()
        values = columns.data.view(rows.values.dtype)
        with whole_file(self.path) as stream:
            starts = columns.indptr.astype(np.int64)
            write_arrays(stream, starts, rows.steps, columns.indices.astype(np.int32), values)
        write_receipt(self._receipt, self.made_from, [self.path])

    def search(
        self, queries: csr_array, best: NDArray[np.float32], indices: NDArray[np.int64]
    ) -> None:
        """Put the documents where they belong among the best of earlier blocks, in place.

        Args:
            queries: [Q, V], terms in ascending order.
            best: [Q, K] scores of the best so far, falling.
            indices: [Q, K] of them.

        Raises:
            DataError: the file is missing or damaged.
        """
        starts, steps, documents, values = self._arrays()
        size = self.last - self.first
        starts, ends = starts[queries.indices], starts[queries.indices + 1]
        totals = np.concatenate([[0], np.cumsum(ends - starts)])[queries.indptr]
        most = np.diff(totals).max(initial=0)
        places, products = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.float32)
        # A product with a matrix of one column, since scipy adds much faster than `np.add.at` does.
        # It multiplies by 1, so a fused multiply and add rounds as two operations would. Only what
        # the matrix holds is another for each query: to make one takes as long as the product.
        column = csc_array((size, 1), dtype=np.float32)
        for row, span in enumerate(pairwise(queries.indptr.tolist())):
            lists = (array[slice(*span)].tolist() for array in (starts, ends))
            end = 0
            for weight, start, stop in zip(queries.data[slice(*span)], *lists, strict=True):
                if start < stop:
                    own = slice(end, end := end + stop - start)
                    places[own] = documents[start:stop]
                    np.multiply(values[start:stop], weight, products[own])
            column.data, column.indices = products[:end], places[:end]
            column.indptr = np.array([0, end], dtype=np.int32)
            scores = column @ ONE
            if len(steps):
                scores *= steps
            merge_hits(scores, self.first, best[row], indices[row])

    def _arrays(self) -> list[NDArray[Any]]:
        """The file's arrays, which stay open; it is checked when it is opened, and if it changed.

        Raises:
            DataError: the file is missing or damaged.
        """
        states = settled_state(self.path), settled_state(self._receipt)
        if states not in self._opened:
            if read_receipt(self._receipt, self.made_from) is None:
                raise DataError(f"{self.path}: this index has no checksum; run the command again")
            arrays = read_arrays(self.path)
            self._opened.clear()
            if None in states:
                return arrays
            self._opened[states] = arrays
        return self._opened[states]

    @property
    def _receipt(self) -> Path:
        return self.path.with_suffix(".json")


def blocks_of(
    documents: SparseShards, folder: Path, most_weights: int, most_documents: int
) -> list[InvertedBlock]:
    """Divide documents into blocks, which need not be there yet.

    Args:
        documents: embeddings [N, V].
        folder: the blocks lie in a folder in it, which is named by the documents' checksums.
        most_weights: in one block, unless one document has more.
        most_documents: in one block.
    """
    digest = documents.digest
    ends = np.cumsum(documents.lengths)
    blocks: list[InvertedBlock] = []
    first = before = 0
    while first < len(ends):
        fitting = int(np.searchsorted(ends, before + most_weights, "right"))
        last = min(max(fitting, first + 1), first + most_documents)
        made_from = {"index": digest, "first": first, "last": last}
        path = folder / f"{digest}.inverted" / f"{len(blocks):06d}.csc"
        blocks.append(InvertedBlock(path, made_from, first, last))
        first, before = last, int(ends[last - 1])
    return blocks


def merge_hits(
    scores: NDArray[np.float32],
    first: int,
    best: NDArray[np.float32],
    indices: NDArray[np.int64],
) -> None:
    """Put documents where they belong among the best so far, in place.

    Args:
        scores: [B] of documents with higher indices than those.
        first: index of the first of these.
        best: [K] scores of the best so far, falling; -inf where there are fewer.
        indices: [K] of the best so far.
    """
    depth = len(best)
    # On equal scores the lower index wins, so those no better than the last of the best stay out.
    if np.isneginf(best[-1]):
        found = np.flatnonzero(scores >= _floor(scores, depth))
    else:
        found = np.flatnonzero(scores > best[-1])
    if not len(found):
        return
    values = scores[found]
    if len(found) > depth:
        last = np.partition(values, -depth)[-depth]
        above = values > last
        equal = np.flatnonzero(values == last)[: depth - np.count_nonzero(above)]
        above[equal] = True
        found, values = found[above], values[above]
    both = np.concatenate([best, values])
    order = np.argsort(-both, kind="stable")[:depth]
    indices[:] = np.concatenate([indices, found + first])[order]
    best[:] = both[order]


def _floor(scores: NDArray[np.float32], depth: int) -> np.float32:
    """A score that at least `depth` documents reach, or all, found faster than by a partition."""
    width = len(scores) // max(4 * depth, 1024)
    if width < 2:
        return np.float32(-np.inf)
    largest = scores[: len(scores) // width * width].reshape(width, -1).max(axis=0)
    return np.partition(largest, -depth)[-depth]
