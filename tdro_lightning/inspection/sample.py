"""The rows of a domain's file that are looked at, and its first batch, read without the others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tdro_lightning.data.dataset import draw_passages, row_generator
from tdro_lightning.data.example import passage_text
from tdro_lightning.data.jsonl import rows_at
from tdro_lightning.data.randomness import generator
from tdro_lightning.data.samplers import RowOrder, batch_rows

MOST_POSITIVES, MOST_NEGATIVES = 4, 32  # of a row that are looked at: its first ones
MOST_CHARACTERS = 10_000  # of a text


@dataclass(frozen=True)
class SampledRow:
    """A row as far as it is looked at; texts hold title and text."""

    line: int
    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


@dataclass
class DrawnBatch:
    """A fine-tuning batch of the domain alone: its passages, and how many repeat another one."""

    rows: int = 0
    passages: int = 0
    repeated: int = 0


@dataclass
class DomainSample:
    """What has been read of a domain."""

    rows: list[SampledRow] = field(default_factory=list)
    batch: DrawnBatch = field(default_factory=DrawnBatch)


@dataclass(frozen=True)
class Drawing:
    """What is drawn of each domain.

    Attributes:
        rows: that are looked at; all of a smaller domain.
        batch_size, negatives: of the batch, as fine-tuning has them.
        seed: the run's seed.
    """

    rows: int
    batch_size: int
    negatives: int
    seed: int

    def read(
        self, path: Path, name: str, prompts: Sequence[str], lines: Sequence[int]
    ) -> DomainSample:
        """Read a domain's drawn rows, and draw the first batch that fine-tuning has of it.

        Held are the rows that are looked at, and eight bytes for each passage of the batch.

        Args:
            path: file of the domain.
            name: of the domain.
            prompts: of the domain, one of which fine-tuning draws before the passages.
            lines: numbers of the lines with a row that can be read.

        Raises:
            DataError: the file has changed since its lines were found readable.
        """
        count, sample = len(lines), DomainSample()
        if not count:
            return sample
        random = generator(self.seed, f"view {name}")
        looked_at = {lines[i] for i in random.permutation(count)[: self.rows]}
        size = batch_rows(count, self.batch_size)
        order = RowOrder(count, self.seed, name, size).take(0, size)
        places = {lines[i]: int(i) for i in order}
        hashes: list[int] = []
        for number, row in rows_at(path, looked_at | places.keys()):
            if number in places:
                own = row_generator(self.seed, name, 0, places[number])
                negatives = self.negatives if row["negative_passages"] else 0
                _, passages = draw_passages(row, prompts, negatives, own)
                hashes += [hash(passage_text(passage)) for passage in passages]
            if number in looked_at:
                parts = (row["positive_passages"], row["negative_passages"])
                positives, others = ([passage_text(p)[:MOST_CHARACTERS] for p in q] for q in parts)
                sample.rows.append(
                    SampledRow(
                        number,
                        row["query"][:MOST_CHARACTERS],
                        tuple(positives[:MOST_POSITIVES]),
                        tuple(others[:MOST_NEGATIVES]),
                    )
                )
        different = len(np.unique(np.array(hashes, dtype=np.int64)))
        sample.batch = DrawnBatch(size, len(hashes), len(hashes) - different)
        return sample
