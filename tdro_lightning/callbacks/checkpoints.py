"""Checkpoints of a run: two are kept, and a run can go on from the newest."""

import re
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from tdro_lightning.errors import DataError

KEPT = 2


class Checkpoints(Callback):
    """Writes `step-<number>.ckpt`, whole tensors whatever the strategy, and keeps the newest two.

    Args:
        folder: the run's checkpoints.
        every: steps between two of them.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder = folder
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Write one where it is time; all ranks take part, the first one writes."""
        if trainer.global_step % self.every:
            return
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step:07d}.ckpt")
        if trainer.is_global_zero:
            for old in _by_step(self.folder)[:-KEPT]:
                old.unlink()


def newest_checkpoint(folder: Path, resume: str) -> Path | None:
    """The checkpoint that a run goes on from, or None for a start at step 0.

    Args:
        folder: the run's checkpoints.
        resume: `never`, `auto` (where there is one) or `must`.

    Raises:
        DataError: `must`, and there is none.
    """
    found = _by_step(folder) if resume != "never" else []
    if resume == "must" and not found:
        raise DataError(f"trainer.resume=must, but {folder} holds no checkpoint")
    return found[-1] if found else None


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name says."""
    (number,) = re.findall(r"step-(\d+)", checkpoint.name)
    return int(number)


def _by_step(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.ckpt"), key=step_of)
