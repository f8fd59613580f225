"""An append-only history of everything logged, our own record beside any tracker."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.pytorch.loggers import Logger

from tdro_lightning.distributed.processes import is_first_process
from tdro_lightning.errors import DataError, ResourceError
from tdro_lightning.files import sync, write_text
from tdro_lightning.records.outputs import HISTORY

HEADER = ("step", "metric", "value")


def log_now(module: LightningModule, metrics: Mapping[str, float], step: int | None = None) -> None:
    """Send values of a step to the loggers, at once.

    `module.log` sends them after the step's last hook, so that a checkpoint written there would
    have a history behind it that lacks them; and it repeats those that later steps do not have.

    Args:
        module: the module that trains.
        metrics: values by name.
        step: number of the step, from 0; None is the one that runs.
    """
    step = module.global_step if step is None else step
    if (step + 1) % module.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
        for logger in module.loggers:
            logger.log_metrics(dict(metrics), step)


def steps_in(path: Path) -> int:
    """How many steps a history file has; 0 without one.

    Raises:
        DataError: the file is damaged.
    """
    return max((int(line[0]) + 1 for line in _lines(path)), default=0)


def history_digest(path: Path, before: int) -> str:
    """SHA-256 of a history's lines of the steps before one; of nothing without a file.

    Raises:
        DataError: as in `steps_in`.
    """
    return hashlib.sha256(json.dumps(_lines(path, before)).encode()).hexdigest()


class History(Logger):
    """`history.csv` in long form: one line for each metric at each logged step.

    A resumed run keeps the lines before the step it continues from. `latest` has the last value of
    each metric.

    Args:
        folder: the run folder.
        start: first step that this run will log; later lines of an earlier run are dropped.
    """

    name = "history"
    version = ""  # unused: a run has one history

    def __init__(self, folder: Path, start: int = 0) -> None:
        super().__init__()
        self.path = folder / HISTORY
        self.latest: dict[str, float] = {}
        if is_first_process():  # as our own launcher has it: SLURM may number otherwise
            text = io.StringIO(newline="")
            csv.writer(text).writerows([HEADER, *(_lines(self.path, start) if start else [])])
            write_text(self.path, text.getvalue())

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line a metric.

        Raises:
            ResourceError: the disk is full or cannot be written.
        """
        if not is_first_process():
            return
        self.latest.update(metrics)
        lines = [(step, n, repr(float(v))) for n, v in metrics.items() if n != "epoch"]
        try:
            with self.path.open("a", newline="") as stream:
                csv.writer(stream).writerows(lines)
        except OSError as error:
            raise ResourceError(
                f"{self.path}: step {step} cannot be written ({error.strerror}); free some space, "
                "then run the same command to resume from the newest checkpoint"
            ) from None

    def save(self) -> None:
        """Put on the disk what has been written, before a checkpoint is."""
        if is_first_process():
            sync(self.path)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the configuration is in run.json."""


def _lines(path: Path, before: float = math.inf) -> list[list[str]]:
    """Step, metric and value of each line of the steps before one; none without a file.

    The last line may be cut short where a run was killed.

    Raises:
        DataError: it is no text, or a step is no whole number.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = [line for line in list(csv.reader(stream))[1:] if len(line) == len(HEADER)]
        return [line for line in lines if int(line[0]) < before]
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"{path}: is damaged ({error}); restore it, or remove it to resume without its lines"
        ) from None
