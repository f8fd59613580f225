"""Embeddings of many texts in files, made by all processes together; a broken run goes on."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.errors import DataError
from tdro_lightning.files import read_json, write_json
from tdro_lightning.processes import barrier
from tdro_lightning.retrieval.distributed import rank, world_size

SHARD_TEXTS = 4096  # many enough to sort by length, few enough to share and to lose
MANIFEST = "manifest.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shards:
    """Embeddings [N, D] float32 in files of equal height; a slice of rows reads those rows only."""

    folder: Path
    rows: int
    shard_rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and dimension."""
        return self.rows, _mapped(_file(self.folder, 0), self._height(0)).shape[1]

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Rows of a slice of step 1 that holds at least one, [R, D].

        Raises:
            DataError: a file is missing or broken.
        """
        first, last, _ = rows.indices(self.rows)
        parts = []
        for shard in range(first // self.shard_rows, -(-last // self.shard_rows)):
            file = _file(self.folder, shard)
            try:
                values = _mapped(file, self._height(shard))
            except (OSError, ValueError) as error:
                raise DataError(f"{file}: the embeddings cannot be read ({error})") from None
            start = shard * self.shard_rows
            parts.append(values[max(first - start, 0) : last - start])
        return np.concatenate(parts)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows [R] in the order given, [R, D]; of each file only these are read."""
        taken = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        shards = rows // self.shard_rows
        for shard in np.unique(shards).tolist():
            own = np.flatnonzero(shards == shard)
            values = _mapped(_file(self.folder, shard), self._height(shard))
            taken[own] = values[rows[own] - shard * self.shard_rows]
        return taken

    def _height(self, shard: int) -> int:
        return min(self.shard_rows, self.rows - shard * self.shard_rows)


def encode(
    texts: Sequence[str],
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
    folder: Path,
    encoder: str,
    prompt: str | None = None,
    shard_texts: int = SHARD_TEXTS,
) -> Shards:
    """Embed texts shard by shard into a folder; what an earlier run finished is not done again.

    Called by all processes together; shard i is embedded by process i mod world size. They all must
    see the same file system.

    Args:
        texts: at least one.
        embed: texts to embeddings [B, D].
        folder: embeddings in it of other texts, or of another encoder, are deleted.
        encoder: fingerprint of everything beside texts and prompt that the embeddings depend on.
        prompt: the instruction that `embed` puts before each text.
        shard_texts: texts in one file.

    Returns:
        The embeddings [N, D], in the order of the texts.

    Raises:
        RuntimeError: the processes were given different texts or different encoders.
    """
    manifest = {
        "texts": len(texts),
        "shard_texts": shard_texts,
        "texts_sha256": _digest(texts),
        "prompt": prompt,
        "encoder": encoder,
    }
    if rank() == 0:
        _begin(folder, manifest)
    barrier()
    if read_json(folder / MANIFEST) != manifest:
        raise RuntimeError(f"rank {rank()} has other texts or another encoder than rank 0")
    shards = -(-len(texts) // shard_texts)
    for shard in range(rank(), shards, world_size()):
        part = texts[shard * shard_texts : (shard + 1) * shard_texts]
        file = _file(folder, shard)
        if not _is_whole(file, len(part)):
            _write(file, embed(part))
            logger.info("%s: shard %d of %d encoded", folder, shard + 1, shards)
    barrier()
    return Shards(folder, len(texts), shard_texts)


def _begin(folder: Path, manifest: Mapping[str, object]) -> None:
    path = folder / MANIFEST
    if path.is_file() and read_json(path) == manifest:
        return
    foreign = sorted(folder.glob("*.npy"))
    if foreign:
        logger.warning("%s: of other texts or another encoder, begun anew", folder)
    for file in foreign:
        file.unlink()
    write_json(path, manifest)


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode()
        digest.update(b"%d:" % len(content) + content)
    return digest.hexdigest()


def _file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06d}.npy"


def _is_whole(path: Path, rows: int) -> bool:
    if not path.exists():
        return False
    try:
        _mapped(path, rows)
    except ValueError as error:
        logger.warning("%s: encoded again (%s)", path, error)
        return False
    return True


def _mapped(path: Path, rows: int) -> NDArray[np.float32]:
    """A shard as a memory map; ValueError where the file is not whole or not of that height."""
    values = np.lib.format.open_memmap(path, mode="r")
    if values.dtype != np.float32 or values.ndim != 2 or len(values) != rows:
        raise ValueError(f"expected {rows} rows of float32, found {values.dtype} {values.shape}")
    if values.offset + values.nbytes != path.stat().st_size:
        raise ValueError(f"{path.stat().st_size} bytes are more than the embeddings take")
    return values


def _write(path: Path, embeddings: NDArray[np.float32]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.save(stream, embeddings.astype(np.float32, copy=False))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
