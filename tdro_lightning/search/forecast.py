"""What an encoding will take, told once the first shards are there."""

import shutil
from dataclasses import dataclass
from datetime import timedelta

from tdro_lightning.errors import DataError
from tdro_lightning.files import GIGA
from tdro_lightning.search.shards import Shards


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
        return rows * self.shards.shape[1] * (2 if self.shards.dtype == "float16" else 4)
