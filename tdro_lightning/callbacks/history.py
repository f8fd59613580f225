"""An append-only history of everything logged, our own record beside any tracker."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

HEADER = ("step", "metric", "value")


def log_now(module: LightningModule, metrics: Mapping[str, float], step: int | None = None) -> None:
    """Send values that only this step has to the loggers.

    `module.log` would repeat them at every later step that has no such value.

    Args:
        module: the module that trains.
        metrics: values by name.
        step: number of the step, from 0; None is the one that runs.
    """
    step = module.global_step if step is None else step
    if (step + 1) % module.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
        for logger in module.loggers:
            logger.log_metrics(dict(metrics), step)


class History(Logger):
    """`history.csv` in long form: one line for each metric at each logged step.

    A resumed run keeps the lines before the step it continues from.

    Args:
        folder: the run folder.
        start: first step that this run will log; later lines of an earlier run are dropped.
    """

    def __init__(self, folder: Path, start: int = 0) -> None:
        super().__init__()
        self.path = folder / "history.csv"
        self._open(start)

    @property
    def name(self) -> str:
        """The logger's name."""
        return "history"

    @property
    def version(self) -> str:
        """Unused: a run has one history."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line a metric."""
        with self.path.open("a", newline="") as stream:
            csv.writer(stream).writerows(
                (step, name, repr(float(value)))
                for name, value in metrics.items()
                if name != "epoch"
            )

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the configuration is in run.json."""

    @rank_zero_only
    def _open(self, start: int) -> None:
        kept: list[list[str]] = []
        if start and self.path.is_file():
            with self.path.open(newline="") as stream:
                kept = [line for line in list(csv.reader(stream))[1:] if int(line[0]) < start]
        with self.path.open("w", newline="") as stream:
            csv.writer(stream).writerows([HEADER, *kept])
