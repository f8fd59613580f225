"""LightningDataModules: they give each rank its share of every global batch, from any step on."""

import logging
import multiprocessing
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from tdro_lightning.data.collator import Collator
from tdro_lightning.data.dataset import RetrievalDataset
from tdro_lightning.data.masking import MaskingCollator
from tdro_lightning.data.passages import PassageDataset
from tdro_lightning.data.samplers import (
    BatchSampler,
    HeterogeneousBatches,
    HomogeneousBatches,
    PooledBatches,
)
from tdro_lightning.distributed.processes import rank, world_size

logger = logging.getLogger(__name__)

PATIENCE = 600  # seconds for a batch, after which a loader process hangs


class RetrievalDataModule(LightningDataModule):
    """Batches of a run, of every domain or of one.

    Args:
        dataset: all domains.
        collate: makes a batch of examples.
        batch_size: queries in a global batch.
        steps: optimiser steps in the run.
        seed: the run's seed.
        workers: loader processes; they change speed only.
        probability: chance of each domain, in index order, to be the one of a global batch, as
            fine-tuning needs it; None puts every domain into every batch, as tDRO needs it.
    """

    def __init__(
        self,
        dataset: RetrievalDataset | PassageDataset,
        collate: Collator | MaskingCollator,
        *,
        batch_size: int,
        steps: int,
        seed: int,
        workers: int,
        probability: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.collate = collate
        self.workers = usable_workers(workers)
        self.step = 0
        self.probability = probability
        self._sampling = {"batch_size": batch_size, "steps": steps, "seed": seed}

    def train_dataloader(self) -> DataLoader[Any]:
        """This rank's batches, from the step a resumed run stands at."""
        return DataLoader(
            self.dataset,
            batch_sampler=self.sampler(),
            collate_fn=self.collate,
            num_workers=self.workers,
            timeout=PATIENCE if self.workers else 0,
            pin_memory=torch.cuda.is_available(),
        )

    def sampler(self) -> BatchSampler:
        """The batches of this rank."""
        if self.probability is None:
            return HeterogeneousBatches(**self._settings())
        return HomogeneousBatches(**self._settings(), probability=self.probability)

    def _settings(self) -> dict[str, Any]:
        """Arguments of every sampler."""
        domains = self.dataset.domains
        return {
            **self._sampling,
            "names": [domain.name for domain in domains],
            "rows": [len(domain) for domain in domains],
            "start": self.step,
            "rank": rank(),
            "world_size": world_size(),
        }

    def state_dict(self) -> dict[str, Any]:
        """The next step: all that the order of the data depends on besides the configuration."""
        return {"step": self.trainer.global_step if self.trainer else self.step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue at the saved step."""
        self.step = int(state_dict["step"])


class PassageDataModule(RetrievalDataModule):
    """Batches of passages, for which the rows of all domains count alike."""

    def sampler(self) -> BatchSampler:
        """The batches of this rank."""
        return PooledBatches(**self._settings())


def usable_workers(wanted: int) -> int:
    """The loader processes that can be had: none where the system has no shared memory.

    Batches are the same with any number.
    """
    if wanted:
        try:
            multiprocessing.Lock()
        except OSError as error:
            logger.warning(
                "data.workers=%d: this machine gives no shared memory (%s; see /dev/shm), so "
                "batches are made without loader processes",
                wanted,
                error.strerror,
            )
            return 0
    return wanted
