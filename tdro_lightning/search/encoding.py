"""Embeddings of many texts in files with checksums, made by all processes and kept by content."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.distributed.collectives import largest
from tdro_lightning.distributed.processes import barrier, from_first, rank, world_size
from tdro_lightning.errors import DataError
from tdro_lightning.files import GIGA, fingerprint, whole_file, write_json
from tdro_lightning.records.receipts import finished_result, read_receipt, write_receipt

SHARD_TEXTS = 4096  # many enough to sort by length, few enough to share and to lose
HALF_FROM = 1_000_000  # texts; fewer keep the last digits, so that near ties stay in order
MANIFEST = "manifest.json"

logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], NDArray[np.floating[Any]]]
AnyShards = TypeVar("AnyShards", bound="Shards")


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
    suffix: ClassVar[str] = ".npy"

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and dimension."""
        return self.rows, self._read(0).shape[1]

    @property
    def row_bytes(self) -> int:
        """Size of a row, to forecast that of all."""
        return self.shape[1] * (2 if self.dtype == "float16" else 4)

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
        if self._file(shard).exists() and not self._receipt(shard).exists():
            logger.warning("%s: has no checksum; made again", self._file(shard))
        return finished_result(self._receipt(shard), self._made_from(shard)) is not None

    def write(self, shard: int, embeddings: NDArray[np.floating[Any]]) -> None:
        """Write a file; it appears under its name once it is whole and on the disk.

        Raises:
            ValueError: there are not as many embeddings as the file has rows.
        """
        path, rows = self._file(shard), self.span(shard)
        if embeddings.ndim != 2 or embeddings.shape[0] != rows.stop - rows.start:
            raise ValueError(f"{rows.stop - rows.start} texts have embeddings {embeddings.shape}")
        with whole_file(path) as stream:
            self._save(stream, embeddings)
        write_receipt(self._receipt(shard), self._made_from(shard), [path])

    def _file(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}{self.suffix}"

    def _receipt(self, shard: int) -> Path:
        return self._file(shard).with_suffix(".json")

    def _made_from(self, shard: int) -> dict[str, Any]:
        return {"embeddings": self.folder.name, "shard": shard}

    def _save(self, stream: BinaryIO, embeddings: NDArray[np.floating[Any]]) -> None:
        np.save(stream, embeddings.astype(self.dtype, copy=False))

    def _open(self, path: Path) -> NDArray[np.floating[Any]]:
        return np.lib.format.open_memmap(path, mode="r")

    def _read(self, shard: int) -> Any:
        """A file as a memory map, once its checksum is found to be right."""
        path = self._file(shard)
        if read_receipt(self._receipt(shard), self._made_from(shard)) is None:
            raise DataError(f"{path}: these embeddings have no checksum; run the command again")
        return self._open(path)


@dataclass(frozen=True)
class Forecast:
    """Time and disk of an encoding.

    Attributes:
        shards: what will be there at the end.
        missing: files that are not there yet.
        seconds: for these, at the speed of the first ones.
        processes: that share the work.
    """

    shards: Shards
    missing: int
    seconds: float
    processes: int

    @property
    def bytes(self) -> int:
        """Size of all embeddings."""
        return self._size(self.shards.rows)

    @property
    def missing_bytes(self) -> int:
        """Size of those that are not there yet, at most."""
        return self._size(self.missing * self.shards.shard_rows)

    def require_room(self) -> None:
        """Refuse to begin what the disk cannot hold.

        Raises:
            DataError: the embeddings that are missing take more than what is free.
        """
        free = shutil.disk_usage(self.shards.folder).free
        if self.missing_bytes > free:
            raise DataError(
                f"{self.shards.folder}: the embeddings take {self.missing_bytes / GIGA:.1f} GB "
                f"more, {free / GIGA:.1f} GB are free; name a folder on a larger disk: "
                "evaluate.embeddings=FOLDER"
            )

    def __str__(self) -> str:
        shards, dimensions = self.shards, self.shards.shape[1]
        return (
            f"{shards.rows:,} texts in {dimensions:,} dimensions ({shards.dtype}), "
            f"{self.bytes / GIGA:.2f} GB in {shards.count:,} shards; "
            f"{self.missing:,} of them to encode, about {timedelta(seconds=round(self.seconds))} "
            f"with {self.processes} {'process' if self.processes == 1 else 'processes'}"
        )

    def _size(self, rows: int) -> int:
        return rows * self.shards.row_bytes


def encode(
    texts: Sequence[str],
    embed: Embed,
    folder: Path,
    encoder: str,
    prompt: str | None = None,
    shard_texts: int = SHARD_TEXTS,
    half_from: int = HALF_FROM,
    announce: Callable[[Forecast], None] | None = None,
    what: str = "texts",
) -> Shards:
    """Embed texts shard by shard into files; what an earlier run finished is not done again.

    A file that has changed since it was written is written again, and a warning names it.

    Called by all processes together; shard i is embedded by process i mod world size. They all must
    see the same file system. Embeddings of a million texts or more are stored in float16, of fewer
    in float32. A shard's texts and embeddings are in memory, no more.

    Args:
        texts: at least one.
        embed: texts to embeddings [B, D].
        folder: embeddings of different texts or encoders lie in it side by side, each in a folder
            whose name is a digest of its manifest.
        encoder: fingerprint of everything beside texts and prompt that the embeddings depend on.
        prompt: the instruction that `embed` puts before each text.
        shard_texts: texts in one file.
        half_from: number of texts from which on they are stored in float16.
        announce: called by the first process, where shards are left to encode when every process
            has encoded its first.
        what: the texts in words, such as `passages of scifact`, for the line of progress.

    Returns:
        The embeddings [N, D], in the order of the texts.

    Raises:
        DataError: the disk is too small.
        RuntimeError: the processes were given different texts or different encoders.
    """
    dtype = "float16" if len(texts) >= half_from else "float32"
    return encode_as(
        Shards, dtype, texts, embed, folder, encoder, prompt, shard_texts, announce, what
    )


def encode_as(
    kind: type[AnyShards],
    dtype: str,
    texts: Sequence[str],
    embed: Embed,
    folder: Path,
    encoder: str,
    prompt: str | None = None,
    shard_texts: int = SHARD_TEXTS,
    announce: Callable[[Forecast], None] | None = None,
    what: str = "texts",
) -> AnyShards:
    """Embed texts as in `encode`, into files of one kind.

    Args:
        kind: of the files; `embed` returns what these write.
        dtype: in which values are stored.
        texts, embed, folder, prompt, shard_texts, announce, what: as in `encode`.
        encoder: as there; it also says which kind the files are of.
    """
    manifest = {
        "texts": len(texts),
        "shard_texts": shard_texts,
        "texts_sha256": _digest(texts),
        "prompt": prompt,
        "encoder": encoder,
        "dtype": dtype,
    }
    shards = _open_shards(kind, folder, manifest)
    own = [s for s in range(rank(), shards.count, world_size()) if not shards.has(s)]
    began = time.monotonic()
    _encode(texts, embed, shards, own[:1], what)
    _look_ahead(shards, len(own) - 1, time.monotonic() - began, announce)
    _encode(texts, embed, shards, own[1:], what)
    barrier()
    return shards


def _open_shards(kind: type[AnyShards], folder: Path, manifest: dict[str, Any]) -> AnyShards:
    """The shards of a manifest, the same on all processes, in a folder named by its digest."""
    barrier()  # a digest may take minutes, and `largest` waits less long
    if largest(int(from_first(manifest) != manifest)):
        raise RuntimeError("the processes were given different texts or different encoders")
    key = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:32]
    shards = kind(folder / key, manifest["texts"], manifest["shard_texts"], manifest["dtype"])
    if rank() == 0:
        write_json(shards.folder / MANIFEST, manifest)
    barrier()
    return shards


def _encode(
    texts: Sequence[str], embed: Embed, shards: Shards, wanted: Sequence[int], what: str
) -> None:
    for shard in wanted:
        done = 100 * shard // shards.count
        logger.info("encoding %s %s, %d %%", f"{len(texts):,}", what, done)
        shards.write(shard, embed(texts[shards.span(shard)]))


def _look_ahead(
    shards: Shards, left: int, seconds: float, announce: Callable[[Forecast], None] | None
) -> None:
    """Tell what is to come, once every process has encoded its first shard.

    Args:
        left: shards that this process has still to encode.
        seconds: that its first one took.
    """
    barrier()
    most, slowest = largest(left), largest(round(1000 * seconds)) / 1000
    if most > 0 and rank() == 0:
        forecast = Forecast(
            shards, min(most * world_size(), shards.count), most * slowest, world_size()
        )
        forecast.require_room()
        if announce is not None:
            announce(forecast)


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode()
        digest.update(b"%d:" % len(content) + content)
    return digest.hexdigest()
