"""Plain progress lines, readable on a terminal and in a log file alike."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from tdro_lightning.data.collator import Batch
from tdro_lightning.modules.tdro import TDROModule


class Progress(Callback):
    """Prints step, loss, the largest domain weights, passages a second and the time left.

    Args:
        title: what is being trained.
        seconds: least time between two lines.
    """

    def __init__(self, title: str, seconds: float = 5.0) -> None:
        self.title = title
        self.seconds = seconds
        self._began = self._printed = 0.0
        self._first_step = self._passages = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = self._printed = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *rest: Any
    ) -> None:
        """Print a line if the last one is old enough, and always at the end."""
        now = time.monotonic()
        self._passages += trainer.world_size * len(batch.passages)
        step, steps = trainer.global_step, trainer.max_steps
        if not trainer.is_global_zero or (now - self._printed < self.seconds and step < steps):
            return
        self._printed = now
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seconds = now - self._began
        left = seconds / max(1, step - self._first_step) * (steps - step)
        line = f"{self.title}: step {step}/{steps}, loss {metrics['loss']:.3f}"
        if isinstance(pl_module, TDROModule):
            names = pl_module.weights.names
            weights = dict(zip(names, pl_module.weights.last.tolist(), strict=True))
            largest = sorted(weights, key=weights.__getitem__, reverse=True)[:3]
            line += ", largest weights " + ", ".join(f"{n} {weights[n]:.3f}" for n in largest)
        speed = f"{self._passages / seconds:,.0f} passages/s"
        print(f"{line}, {speed}, {left:.0f} s left", flush=True)
