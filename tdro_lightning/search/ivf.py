"""Approximate inner-product search in pools that an exact search would take too long for."""

import logging
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from tdro_lightning.distributed.processes import barrier, rank
from tdro_lightning.errors import DataError
from tdro_lightning.files import whole_file
from tdro_lightning.records.receipts import finished_result, read_receipt, write_receipt
from tdro_lightning.search.dense import DenseIndex, DenseRetriever, Rows
from tdro_lightning.search.encoding import Shards
from tdro_lightning.search.retriever import Hits

LIST_VECTORS = 64  # vectors a list learns from
PROBED = 128  # lists that a query looks at
ROWS_AT_ONCE = 16384

logger = logging.getLogger(__name__)


class IVFIndex(DenseIndex):
    """Embedded documents, searched approximately; the inverted file lies in the folder."""

    def __init__(
        self,
        retriever: DenseRetriever,
        documents: Shards,
        folder: Path,
        position: Callable[[str], int] | None,
    ) -> None:
        super().__init__(retriever, documents, folder, position)
        self._path = folder / f"{documents.digest}.ivf"
        if rank() == 0:
            write_ivf(documents, self._path)
        barrier()

    def search(self, queries: NDArray[np.float32], depth: int) -> Hits:
        """As in `ivf_search`."""
        return ivf_search(self._path, queries, depth)


class IVFRetriever(DenseRetriever):
    """Inner products of embeddings, searched approximately."""

    index_class = IVFIndex


def write_ivf(vectors: Rows, path: Path) -> None:
    """Write faiss's inverted-file index of N unit vectors, 2 bytes a value.

    There are about 4 √N lists, of which a query looks at 128. The whole index is in memory while it
    is built (23 GB for 30 million vectors of 384 values). One that is there is left alone, but
    written again where it was damaged.

    Args:
        vectors: [N, D].
        path: its name says which vectors these are; a file with its checksum appears beside it.
    """
    if finished_result(_receipt(path), {"index": path.name}) is not None:
        return
    count, size = vectors.shape
    lists = max(1, min(round(4 * count**0.5), count // LIST_VECTORS))
    logger.info("IVF index: %s vectors into %s lists", f"{count:,}", f"{lists:,}")
    index = faiss.index_factory(size, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    faiss.extract_index_ivf(index).nprobe = min(PROBED, lists)
    index.train(_sample(vectors, LIST_VECTORS * lists))
    for start in range(0, count, ROWS_AT_ONCE):
        index.add(np.ascontiguousarray(vectors[start : start + ROWS_AT_ONCE], dtype=np.float32))
    with whole_file(path) as stream:
        faiss.write_index(index, stream.name)
    write_receipt(_receipt(path), {"index": path.name}, [path])


def ivf_search(path: Path, queries: NDArray[np.float32], depth: int) -> Hits:
    """Return the vectors of nearly the largest inner products with each query, best first.

    The index is mapped from its file, so that the processes of a machine share its memory. Scores
    are those of vectors in half precision; equal ones are ordered by index.

    Args:
        path: as `write_ivf` left it.
        queries: unit vectors [Q, D].
        depth: number of columns of the result.

    Returns:
        Scores [Q, depth] and indices [Q, depth]; where fewer are found the last columns hold index
        -1 and score 0.

    Raises:
        DataError: the index is damaged.
    """
    if read_receipt(_receipt(path), {"index": path.name}) is None:
        raise DataError(f"{path}: this index has no checksum; run the command again")
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    scores, indices = index.search(np.ascontiguousarray(queries, dtype=np.float32), depth)
    order = np.lexsort((indices, -scores), axis=-1)
    scores = np.take_along_axis(scores, order, axis=1)
    indices = np.take_along_axis(indices, order, axis=1)
    scores[indices < 0] = 0
    return scores, indices


def _receipt(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _sample(vectors: Rows, wanted: int) -> NDArray[np.float32]:
    """At least `wanted` vectors where there are so many: whole blocks, evenly spread."""
    blocks, taken = (-(-count // ROWS_AT_ONCE) for count in (len(vectors), wanted))
    chosen = np.linspace(0, blocks, min(taken, blocks), endpoint=False).astype(int).tolist()
    parts = [vectors[block * ROWS_AT_ONCE : (block + 1) * ROWS_AT_ONCE] for block in chosen]
    return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)
