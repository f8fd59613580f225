"""Measures what trains every so many steps, keeps its best step, and ends where none is better."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from tdro_lightning.evaluation.dev_sets import NDCG
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.training.encoder_module import EncoderModule
from tdro_lightning.training.kept import Kept

PREFIX = "validation/"  # of the metrics in the history
STATE = "validation"  # in a checkpoint

logger = logging.getLogger(__name__)


@dataclass
class BestStep:
    """The best validation until now.

    Attributes:
        step: after which it was made; 0 before the first one.
        value: of the metric.
        waited: validations since then.
    """

    step: int = 0
    value: float = 0.0
    waited: int = 0

    def takes(self, step: int, value: float, *, higher: bool) -> bool:
        """Count one more; whether it is better than all before. An equal one is not."""
        if self.step and not (value > self.value if higher else value < self.value):
            self.waited += 1
            return False
        self.step, self.value, self.waited = step, value, 0
        return True


class BestStepKept(Callback):
    """Measures the encoder that trains every so many steps and after the last one.

    It comes before the callback that writes checkpoints, so that the checkpoint of a step has what
    was measured there. Whatever it finds is in the checkpoint: a resumed run keeps the same step.

    Args:
        measure: metrics of an encoder in eval mode, the same on all processes, from tokens on a
            device.
        kept: what is copied at the best step.
        every: steps between two validations.
        metric: of those measured, decides which step is the best.
        patience: so many validations after the best one without a better end the training; None
            trains to the last step.
        measured: called after each validation, whose time belongs to no step.
    """

    def __init__(
        self,
        measure: Callable[[Encoder, torch.device], dict[str, float]],
        kept: Kept,
        every: int,
        metric: str,
        patience: int | None = None,
        measured: Callable[[], None] = lambda: None,
    ) -> None:
        self.measure = measure
        self.kept = kept
        self.every = every
        self.metric = metric
        self.patience = patience
        self.measured = measured
        self.best = BestStep()

    @property
    def is_over(self) -> bool:
        """Whether the training has waited for a better step long enough."""
        return self.patience is not None and self.best.waited >= self.patience

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Measure where it is time; copy what is best, and end the training where none will be."""
        step = trainer.global_step
        if step % self.every and step != trainer.max_steps:
            return
        assert isinstance(pl_module, EncoderModule)
        encoder, _ = pl_module.encoders()
        encoder.eval()
        with trainer.precision_plugin.forward_context():
            values = self.measure(encoder, trainer.strategy.root_device)
        encoder.train()
        # Whatever `trainer.log_every` is, and at the same step as what was logged in it.
        named = {f"{PREFIX}{name}": value for name, value in values.items()}
        for tracker in pl_module.loggers:
            tracker.log_metrics(named, step - 1)
        better = self.best.takes(step, values[self.metric], higher=self.metric == NDCG)
        logger.info(
            "validation after step %d: %s %.4f%s",
            *(step, self.metric, values[self.metric], ", the best until now" if better else ""),
        )
        if better:
            self.kept.take()
        trainer.should_stop = trainer.should_stop or self.is_over
        self.measured()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the best step and what is kept of it."""
        if self.best.step:
            checkpoint[STATE] = {"best": asdict(self.best), "kept": self.kept.state_dict()}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Continue with what was found before; a training that was over stays so."""
        if STATE in checkpoint:
            self.best = BestStep(**checkpoint[STATE]["best"])
            self.kept.load_state_dict(checkpoint[STATE]["kept"])
            trainer.should_stop = self.is_over

    def end_with_best(self) -> None:
        """Put back what was copied at the best step, once the training has ended."""
        if self.best.step:
            self.kept.put_back()
