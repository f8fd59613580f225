"""Which rows make up each global batch: pure functions of (seed, step), sliced by rank.

A sampler yields draws (step, domain, row). It knows neither loader workers nor epochs, and it can
start at any step, so a resumed run continues with the exact next batch.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.data.randomness import generator
from tdro_lightning.errors import ConfigError


class Draw(NamedTuple):
    """One row of a global batch."""

    step: int
    domain: int
    row: int


class RowOrder:
    """Endless shuffled passes over a domain's rows: every row once before any row twice.

    Args:
        rows: number of rows.
        seed: the run's seed.
        name: the domain's name.
        batch: rows taken at a time, or 0. Where a batch straddles two passes, the second pass is
            arranged so that no row stands in that batch twice; needs at least `batch` rows.
    """

    def __init__(self, rows: int, seed: int, name: str, batch: int = 0) -> None:
        self.rows, self.seed, self.name, self.batch = rows, seed, name, batch
        self._pass = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def take(self, start: int, count: int) -> NDArray[np.int64]:
        """Row indices at positions `start` to `start + count` of the endless order."""
        parts = [np.empty(0, dtype=np.int64)]
        for number in range(start // self.rows, -(-(start + count) // self.rows)):
            before = number * self.rows
            parts.append(self._order_of(number)[max(start - before, 0) : start + count - before])
        return np.concatenate(parts)

    def _order_of(self, number: int) -> NDArray[np.int64]:
        """The rows in the order of a pass, from 0."""
        if number < self._pass:
            self._pass = -1
        while self._pass < number:
            self._pass += 1
            order = generator(self.seed, f"order {self.name}", self._pass).permutation(self.rows)
            begun = self._pass * self.rows % self.batch if self.batch else 0
            if begun:
                twice = np.isin(order, self._order[-begun:])
                head = np.flatnonzero(~twice)[: self.batch - begun]
                order = np.concatenate([order[head], np.delete(order, head)])
            self._order = order
        return self._order


def batch_rows(rows: int, batch_size: int, world_size: int = 1) -> int:
    """Rows in a batch of one domain: all of a small one, as far as the processes share it."""
    return min(rows, batch_size) // world_size * world_size


class BatchSampler:
    """Draws of one rank for each step from `start` to `steps`; subclasses say what a batch is.

    Args:
        names: domain names, in index order.
        rows: rows of each domain.
        batch_size: queries in a global batch, over all ranks.
        steps: optimiser steps in the whole run.
        seed: the run's seed.
        start: first step, above 0 when a run resumes.
        rank: this process.
        world_size: number of processes.

    Raises:
        ConfigError: the batch cannot be split evenly over the processes.
    """

    def __init__(
        self,
        names: Sequence[str],
        rows: Sequence[int],
        batch_size: int,
        steps: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ConfigError(
                f"data.batch_size={batch_size} must be a positive multiple of the "
                f"{world_size} processes"
            )
        self.names, self.rows = tuple(names), tuple(rows)
        self.batch_size, self.steps, self.seed, self.start = batch_size, steps, seed, start
        self.rank, self.world_size = rank, world_size
        self._orders = [
            RowOrder(count, seed, name, self._distinct_rows(count))
            for name, count in zip(names, rows, strict=True)
        ]

    def __len__(self) -> int:
        """Steps of the whole run, also when it resumes: the trainer counts from the first."""
        return self.steps

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.start, self.steps):
            # Strided, so that the ranks' shares of a heterogeneous batch hold the same domains.
            yield self.global_batch(step)[self.rank :: self.world_size]

    def global_batch(self, step: int) -> list[Draw]:
        """The draws of all ranks at a step, domain by domain."""
        draws = []
        for domain, order in enumerate(self._orders):
            begin, end = self._drawn_before(domain, step), self._drawn_before(domain, step + 1)
            draws += [Draw(step, domain, int(row)) for row in order.take(begin, end - begin)]
        return draws

    def rows_drawn(self, steps: int | None = None) -> list[int]:
        """Rows drawn from each domain in the first steps; None counts the whole run."""
        before = self.steps if steps is None else steps
        return [self._drawn_before(domain, before) for domain in range(len(self.names))]

    def _distinct_rows(self, rows: int) -> int:
        """Rows of a domain of so many in each of its batches, none twice; 0 where one may be."""
        return 0

    def _drawn_before(self, domain: int, step: int) -> int:
        """Rows of a domain in all batches before `step`."""
        raise NotImplementedError


class HeterogeneousBatches(BatchSampler):
    """Every domain in every global batch, counts equal to within one, the remainder rotating.

    Raises:
        ConfigError: fewer rows in a batch than there are domains.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        if self.batch_size < len(self.names):
            raise ConfigError(
                f"data.batch_size={self.batch_size} must be at least the number of domains, "
                f"{len(self.names)}: tDRO compares all of them at every step"
            )

    def _drawn_before(self, domain: int, step: int) -> int:
        """Rows of a domain in all batches before `step`: its share and its turns at the rest."""
        share, rest = divmod(self.batch_size, len(self.names))
        turns = (step * rest - domain + len(self.names) - 1) // len(self.names)
        return step * share + max(0, turns)


class HomogeneousBatches(BatchSampler):
    """One domain a global batch, the same on every rank, drawn with the mixture's probabilities.

    A domain with fewer rows than a batch has smaller batches: all of its rows, as far as the
    processes share them evenly. So no row stands in a batch twice, as its own negative.

    Args:
        probability: chance of each domain, sum 1.

    Raises:
        ConfigError: a drawable domain has fewer rows than there are processes.
    """

    def __init__(self, *args: object, probability: Sequence[float], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        for name, rows, p in zip(self.names, self.rows, probability, strict=True):
            if p > 0 and rows < self.world_size:
                raise ConfigError(
                    f"domain {name} has {rows} rows for {self.world_size} processes; leave it out "
                    f"with transfer.drop=[{name}]"
                )
        cumulative = np.cumsum(probability)
        drawable = np.flatnonzero(probability)
        uniform = generator(self.seed, "domain of the batch").random(self.steps)
        chosen = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
        self.domains = np.minimum(chosen, drawable[-1])
        self._steps = [np.flatnonzero(self.domains == d) for d in range(len(self.names))]

    def _distinct_rows(self, rows: int) -> int:
        return batch_rows(rows, self.batch_size, self.world_size)

    def _drawn_before(self, domain: int, step: int) -> int:
        size = self._distinct_rows(self.rows[domain])
        return size * int(np.searchsorted(self._steps[domain], step))


class PooledBatches(BatchSampler):
    """Rows of all domains alike, in one shuffled order: each row once before any row twice."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._ends = np.cumsum(self.rows)
        self._order = RowOrder(int(self._ends[-1]), self.seed, "all domains")

    def global_batch(self, step: int) -> list[Draw]:
        """The draws of all ranks at a step, in the order that they come."""
        rows = self._order.take(step * self.batch_size, self.batch_size)
        domains = self._domains_of(rows)
        own = rows - (self._ends - self.rows)[domains]
        pairs = zip(domains.tolist(), own.tolist(), strict=True)
        return [Draw(step, domain, row) for domain, row in pairs]

    def rows_drawn(self, steps: int | None = None) -> list[int]:
        """Rows drawn from each domain in the first steps; None counts the whole run."""
        count = self.batch_size * (self.steps if steps is None else steps)
        passes, rest = divmod(count, int(self._ends[-1]))
        begun = self._domains_of(self._order.take(passes * int(self._ends[-1]), rest))
        counts = passes * np.array(self.rows) + np.bincount(begun, minlength=len(self.rows))
        return [int(number) for number in counts]

    def _domains_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The domain of each row of the one order."""
        return np.searchsorted(self._ends, rows, side="right")
