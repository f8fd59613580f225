"""Losses of a frozen reference, kept on disk by content, so that no row is run through it twice.

A key is a digest of all that a loss depends on: the reference, temperature and precision, and the
token ids and boundaries of the row's texts, which say its prompt, tokenizer, truncation and chosen
passages. So a wrong key finds nothing, whatever files lie in the folder.
"""

import hashlib
import json
import logging
import math
import os
import sqlite3
import sys
import uuid
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from tdro_lightning.distributed.collectives import gather_rows, largest
from tdro_lightning.distributed.processes import rank
from tdro_lightning.errors import ConfigError, ResourceError
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.fingerprint import encoder_fingerprint
from tdro_lightning.models.tokens import Tokens, id_bytes

logger = logging.getLogger(__name__)

KEY_BYTES = 16
# A loss is kept as text, which keeps all its bits, also the sign of a zero.
CREATE = "CREATE TABLE IF NOT EXISTS losses (key BLOB, loss TEXT, checksum INTEGER)"


def loss_fingerprint(reference: Encoder, temperature: float, precision: str) -> str:
    """SHA-256 of all that a row's reference loss depends on besides the row itself.

    Device, strategy and library versions are left out: like the chunk that a row runs in, they move
    a loss by rounding only. Rounding is that of the precision over the temperature: in float32 it
    is in the last digits; in bf16 at a sharp temperature it shows in single rows, and a cached loss
    is then as near to a fresh one as two fresh ones in different chunks are to each other.

    Args:
        reference: the frozen encoder, before it is sharded.
        temperature: softmax temperature of the loss.
        precision: the Trainer's precision.
    """
    content = {
        "encoder": encoder_fingerprint(reference),
        "temperature": temperature,
        "precision": precision,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def row_keys(queries: Tokens, passages: Tokens, fingerprint: str) -> list[bytes]:
    """BLAKE2b-128 of each row's texts, keyed with a fingerprint.

    Args:
        queries: B queries.
        passages: B * N passages, row by row.
        fingerprint: hexadecimal, at most 64 bytes.

    Returns:
        B keys of 16 bytes.
    """
    lengths = torch.cat([queries.lengths[:, None], passages.lengths.view(len(queries), -1)], dim=1)
    # The lengths go first: they say how many tokens follow, and where each text ends.
    parts = zip(
        id_bytes(lengths.flatten(), torch.full((len(lengths),), lengths.shape[1])),
        id_bytes(queries.ids, queries.lengths),
        id_bytes(passages.ids, lengths[:, 1:].sum(1)),
        strict=True,
    )
    key = bytes.fromhex(fingerprint)
    return [
        hashlib.blake2b(b"".join(row), digest_size=KEY_BYTES, key=key).digest() for row in parts
    ]


def largest_loss(temperature: float, unit: bool = True) -> float:
    """More than a row's loss can be: what a wrong program writes has valid checksums too.

    The scores of unit vectors differ by 2 at most (a little more where they are rounded to half
    precision), and the logarithm of the number of passages is below 24. Other vectors have no
    bound.
    """
    return 2.1 / temperature + 24 if unit else sys.float_info.max


class ReferenceLosses:
    """Known losses by key: those found on disk at the start, and those that this process adds.

    Each process writes an SQLite database of its own, so that runs may share a folder at the same
    time and none waits for another. A loss takes about 150 bytes of memory and 50 on disk.

    Args:
        folder: of all references; made where it is missing.
        fingerprint: of this reference, from `loss_fingerprint`; it names the folder inside.
        temperature: softmax temperature of the loss, which says how large a loss can be.
        unit: whether the vectors have unit length, which says it too.

    Raises:
        ConfigError: the folder is a file.
    """

    def __init__(
        self, folder: Path, fingerprint: str, temperature: float, unit: bool = True
    ) -> None:
        self.folder = folder / fingerprint[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(
                f"module.reference_cache={folder}: a file stands there; name a folder"
            ) from None
        self.fingerprint = fingerprint
        self.largest = largest_loss(temperature, unit)
        # Random, since the number of an ended process may come again, and its file be damaged.
        self._own = self.folder / f"rank{rank()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.losses"
        self._known: dict[bytes, float] = {}
        for path in sorted(self.folder.glob("*.losses")):
            self._load(path)
        logger.info("%s: %d reference losses", self.folder, len(self))

    def __len__(self) -> int:
        return len(self._known)

    def look_up(self, keys: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """Losses [B] float64, NaN where unknown, and the unknown rows' indices."""
        known = self._known
        losses = torch.tensor([known.get(key, math.nan) for key in keys], dtype=torch.float64)
        return losses, losses.isnan().nonzero().flatten()

    def add(self, keys: Sequence[bytes], losses: Tensor) -> None:
        """Keep new losses, in memory and on disk; what no loss can be is not kept.

        Args:
            keys: R keys; those known already are passed over.
            losses: [R].

        Raises:
            ResourceError: the disk is full, or the folder cannot be written to.
        """
        rows = []
        for key, loss in zip(keys, losses.tolist(), strict=True):
            if 0 <= loss <= self.largest and key not in self._known:
                self._known[key] = loss
                rows.append((key, str(loss), _checksum(key, str(loss))))
        if not rows:
            return
        try:
            with closing(sqlite3.connect(self._own)) as database, database:
                database.execute("PRAGMA synchronous=OFF")  # a checksum tells what was lost
                database.execute(CREATE)
                database.executemany("INSERT INTO losses VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise ResourceError(f"{self._own}: cannot be written ({error})") from None

    def get_or_compute(
        self,
        queries: Tokens,
        passages: Tokens,
        fresh: Callable[[Tensor], Tensor],
        *,
        together: bool = False,
    ) -> tuple[Tensor, float]:
        """The losses of a process's batch, those that are missing computed and kept.

        Args:
            queries: B queries.
            passages: B * N passages, row by row.
            fresh: losses [R] of rows [R] of the batch; not called where none is missing.
            together: `fresh` is a collective. Then all processes call it with equally many rows, or
                none does; those that lack fewer run known rows again, and go by what they know.

        Returns:
            losses [B] float64 in the host's memory, and the share of all processes' rows that were
            known before.
        """
        keys = row_keys(queries, passages, self.fingerprint)
        losses, missing = self.look_up(keys)
        present = ~losses.isnan()
        count = largest(len(missing)) if together else len(missing)
        if count:
            rows = present.int().argsort(stable=True)[:count]  # the missing ones first, in order
            losses[missing] = fresh(rows)[: len(missing)].double().cpu()
            self.add([keys[row] for row in missing.tolist()], losses[missing])
        return losses, float(gather_rows(present.double()).mean())

    def _load(self, path: Path) -> None:
        """Read a process's losses, and leave out those that cannot be right."""
        unusable = 0
        try:
            with closing(sqlite3.connect(path)) as database:
                for key, loss, checksum in database.execute("SELECT * FROM losses"):
                    if checksum == _checksum(key, loss) and 0 <= float(loss) <= self.largest:
                        self._known[key] = float(loss)
                    else:
                        unusable += 1
        except (sqlite3.DatabaseError, ValueError) as error:
            logger.warning("%s: damaged, or of an earlier version, and not used (%s)", path, error)
        if unusable:
            logger.warning(
                "%s: %d losses that are damaged, or outside 0 to %.3g, the largest at this "
                "temperature, are not used",
                *(path, unusable, self.largest),
            )


def _checksum(key: object, loss: object) -> int:
    return zlib.crc32(repr((key, loss)).encode())
