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
import struct
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor

from tdro_lightning.distributed.collectives import gather_rows, largest
from tdro_lightning.distributed.processes import rank
from tdro_lightning.errors import ConfigError
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.fingerprint import encoder_fingerprint
from tdro_lightning.models.tokens import Tokens

logger = logging.getLogger(__name__)

KEY_BYTES = 16
CONTENT = struct.Struct(f"<{KEY_BYTES}sd")  # key and loss
RECORD = struct.Struct(f"<{KEY_BYTES}sdI")  # and the CRC-32 of both


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
        _slices(lengths.flatten(), torch.full((len(lengths),), lengths.shape[1])),
        _slices(queries.ids, queries.lengths),
        _slices(passages.ids, lengths[:, 1:].sum(1)),
        strict=True,
    )
    empty = hashlib.blake2b(digest_size=KEY_BYTES, key=bytes.fromhex(fingerprint))
    return [_digest(empty.copy(), row) for row in parts]


def _slices(values: Tensor, sizes: Tensor) -> Iterator[memoryview]:
    """Parts of some values one after the other, as 32-bit integers in one byte order."""
    view = values.cpu().numpy().astype("<i4").data
    return (view[start:end] for start, end in pairwise(accumulate(sizes.tolist(), initial=0)))


def _digest(started: "hashlib.blake2b", parts: Iterable[memoryview]) -> bytes:
    for part in parts:
        started.update(part)
    return started.digest()


def largest_loss(temperature: float) -> float:
    """More than a row's loss can be: a wrong writer's records have valid checksums too.

    The scores of unit vectors differ by 2 at most (a little more where they are rounded to half
    precision), and the logarithm of the number of passages is below 24.
    """
    return 2.1 / temperature + 24


class ReferenceLosses:
    """Known losses by key: those found on disk at the start, and those that this process adds.

    Each process appends to a file of its own, so that runs may share a folder at the same time.
    A loss takes about 150 bytes of memory and 28 on disk.

    Args:
        folder: of all references; made where it is missing.
        fingerprint: of this reference, from `loss_fingerprint`; it names the folder inside.
        temperature: softmax temperature of the loss, which says how large a loss can be.

    Raises:
        ConfigError: the folder is a file.
    """

    def __init__(self, folder: Path, fingerprint: str, temperature: float) -> None:
        self.folder = folder / fingerprint[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(
                f"module.reference_cache={folder}: a file stands there; name a folder"
            ) from None
        self.fingerprint = fingerprint
        self.largest = largest_loss(temperature)
        # Random, since a number of an ended process may come again after a record cut short.
        self._own = self.folder / f"rank{rank()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.losses"
        self._known: dict[bytes, float] = {}
        for path in sorted(self.folder.glob("*.losses")):
            self._load(path)
        logger.info("%s: %d reference losses", self.folder, len(self))

    def __len__(self) -> int:
        return len(self._known)

    def lookup(self, keys: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """Losses [B] float64, NaN where unknown, and the unknown rows' indices."""
        known = self._known
        losses = torch.tensor([known.get(key, math.nan) for key in keys], dtype=torch.float64)
        return losses, losses.isnan().nonzero().flatten()

    def add(self, keys: Sequence[bytes], losses: Tensor) -> None:
        """Keep new losses, in memory and on disk; what no loss can be is not kept.

        Args:
            keys: R keys; those known already are passed over.
            losses: [R].
        """
        content = bytearray()
        for key, loss in zip(keys, losses.tolist(), strict=True):
            if 0 <= loss <= self.largest and key not in self._known:
                self._known[key] = loss
                record = CONTENT.pack(key, loss)
                content += record + zlib.crc32(record).to_bytes(4, "little")
        if content:
            with self._own.open("ab") as stream:
                stream.write(content)

    def completed(
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
        losses, missing = self.lookup(keys)
        found = ~losses.isnan()
        count = largest(len(missing)) if together else len(missing)
        if count:
            rows = found.int().argsort(stable=True)[:count]  # the missing ones first, in order
            losses[missing] = fresh(rows)[: len(missing)].double().cpu()
            self.add([keys[row] for row in missing.tolist()], losses[missing])
        return losses, float(gather_rows(found.double()).mean())

    def _load(self, path: Path) -> None:
        """Read another process's records, and leave out those that cannot be right."""
        content = memoryview(path.read_bytes())
        count, rest = divmod(len(content), RECORD.size)
        damaged, absurd = int(rest > 0), 0
        for number, (key, loss, check) in enumerate(
            RECORD.iter_unpack(content[: count * RECORD.size])
        ):
            start = number * RECORD.size
            if zlib.crc32(content[start : start + CONTENT.size]) != check:
                damaged += 1
            elif 0 <= loss <= self.largest:
                self._known[key] = loss
            else:
                absurd += 1
        if damaged:
            logger.warning("%s: %d damaged records, which are not used", path, damaged)
        if absurd:
            logger.warning(
                "%s: %d losses outside 0 to %.0f, the largest at this temperature, are not used",
                *(path, absurd, self.largest),
            )
