"""A mixture as the batch sampler of several datasets that sentence-transformers takes."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, ConcatDataset

from tdro_lightning.data.randomness import choose_rows
from tdro_lightning.data.samplers import HomogeneousBatches
from tdro_lightning.distributed.processes import world_size
from tdro_lightning.dro.mixture_file import MixtureFile
from tdro_lightning.errors import ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class DatasetMixture:
    """What `SentenceTransformerTrainingArguments` takes as `multi_dataset_batch_sampler`.

    Every batch is of one dataset, drawn as this project's fine-tuning draws it: the same dataset at
    every step and, where batch size and rows are those of the file, the same rows. Pass the
    datasets of `arrange` as `train_dataset`, and `steps` as `max_steps`.

    Args:
        content: of a `mixture.yaml`.

    Raises:
        ConfigError: it scales the losses of domains, which a sampler cannot do.
    """

    def __init__(self, content: MixtureFile) -> None:
        if any(share.loss_scale != 1 for share in content.shares.values()):
            raise ConfigError(
                "this mixture scales the losses of its domains (transfer.rule=loss_reweight), "
                "which a sampler cannot do; use transfer.rule=reweight"
            )
        self.content = content
        self.probability = {n: p for n, p in content.probability.items() if p > 0}
        self.steps = content.steps
        self.batch_size = content.batch_size

    def arrange(self, datasets: Mapping[str, T]) -> dict[str, T]:
        """The datasets of the mixture in its order, without those that it leaves out.

        Raises:
            ConfigError: one is missing, or one is neither taken nor left out.
        """
        missing = [name for name in self.probability if name not in datasets]
        unknown = [name for name in datasets if name not in self.content.shares]
        if missing or unknown:
            raise ConfigError(
                f"these are not the datasets of the mixture: missing {missing or 'none'}, "
                f"unknown {unknown or 'none'}"
            )
        return {name: datasets[name] for name in self.probability}

    def __call__(
        self,
        dataset: ConcatDataset[Any],
        batch_samplers: Sequence[BatchSampler],
        generator: Any = None,
        seed: int | None = None,
    ) -> "MixtureBatches":
        """The batches of a training; the draws hang on the seed of the mixture alone.

        Args:
            dataset: the datasets of `arrange`, one after the other.
            batch_samplers: of each dataset; their batch size is that of a process.
            generator: not used.
            seed: not used.

        Raises:
            ConfigError: other datasets than those of `arrange`.
        """
        sizes = [len(part) for part in dataset.datasets]  # type: ignore[arg-type]
        if len(sizes) != len(self.probability):
            raise ConfigError(
                f"train_dataset has {len(sizes)} datasets and the mixture "
                f"{len(self.probability)}; pass what DatasetMixture.arrange returns"
            )
        return MixtureBatches(self.content, sizes, batch_samplers[0].batch_size)


class MixtureBatches(BatchSampler):
    """Batches of row numbers in the concatenated datasets, one dataset a batch.

    With several processes, the batches of a step come one after the other, as accelerate hands them
    out: their rows together are one global batch. A further epoch continues the draws.

    Args:
        content: the mixture.
        sizes: rows of the datasets that it does not leave out, in its order.
        batch_size: rows of a batch of one process.
    """

    def __init__(self, content: MixtureFile, sizes: Sequence[int], batch_size: int) -> None:
        self.names = [name for name, share in content.shares.items() if share.probability]
        self.content = content
        self.epoch = 0
        self.drop_last = False
        self.world_size = world_size()
        self.rows_of_process = batch_size
        # accelerate would hold back a batch that has fewer rows, as that of a small domain has.
        self.batch_size = batch_size if self.world_size == 1 else None  # type: ignore[assignment]
        self._first = np.cumsum([0, *sizes])
        named = zip(self.names, sizes, strict=True)
        self._rows = [self._used_rows(name, size) for name, size in named]

    def set_epoch(self, epoch: int) -> None:
        """Continue with the draws of an epoch, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.content.steps * self.world_size

    def __iter__(self) -> Iterator[list[int]]:
        steps = self.content.steps
        draws = HomogeneousBatches(
            self.names,
            [len(rows) for rows in self._rows],
            self.rows_of_process * self.world_size,
            (self.epoch + 1) * steps,
            self.content.seed,
            world_size=self.world_size,
            probability=[self.content.shares[name].probability for name in self.names],
        )
        for step in range(self.epoch * steps, (self.epoch + 1) * steps):
            batch = [
                int(self._first[d] + self._rows[d][row]) for _, d, row in draws.global_batch(step)
            ]
            for rank in range(self.world_size):
                yield batch[rank :: self.world_size]

    def _used_rows(self, name: str, size: int) -> NDArray[np.int64]:
        """Row numbers of a dataset that are used: the budget's where its rows are the file's."""
        share = self.content.shares[name]
        if size == share.of and share.rows < size:
            return choose_rows(name, size, share.rows)
        if size != share.of:
            logger.warning(
                "%s has %d rows and had %d when the mixture was made: the same domains are drawn, "
                "but not the same rows",
                name,
                size,
                share.of,
            )
        return np.arange(size)
