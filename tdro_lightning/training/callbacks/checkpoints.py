"""When a run writes checkpoints, and how it ends where a signal asks it to."""

import math
import signal
import threading
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from tdro_lightning.distributed.collectives import largest
from tdro_lightning.distributed.processes import BEGAN, barrier
from tdro_lightning.errors import RunStopped
from tdro_lightning.records.outputs import HISTORY
from tdro_lightning.training.checkpoint import RUN, checkpoint_path
from tdro_lightning.training.history import history_digest

SIGNALS = (signal.SIGTERM, signal.SIGINT)
TIME = 1  # in place of a signal's number, and lower than those
ONE_REQUEST = 1.0  # seconds; a launcher repeats a signal of the terminal to its processes


class Checkpoints(Callback):
    """Writes a checkpoint every so many steps, whole tensors whatever the strategy.

    It comes after the callbacks that log, so that the history has what lies behind it.

    Args:
        folder: the run's checkpoints.
        every: steps between two of them; None writes none by itself.
        run: what the run depends on, kept beside the state.
    """

    def __init__(self, folder: Path, every: int | None, run: dict[str, Any]) -> None:
        self.folder = folder
        self.every = every
        self.run = run
        self._written = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run has its first checkpoint already."""
        self._written = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Write one where it is time, and after the last step: more may come after the training."""
        step = trainer.global_step
        last = step == trainer.max_steps or trainer.should_stop
        if self.every is not None and (step % self.every == 0 or last):
            self.write(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what the run depends on, and what its history is by now."""
        digest = history_digest(self.folder.parent / HISTORY, trainer.global_step)
        checkpoint[RUN] = {**self.run, HISTORY: digest}

    def write(self, trainer: Trainer) -> None:
        """Write one now, unless this step has one; all ranks take part, the first one writes."""
        if trainer.global_step != self._written:
            for logger in trainer.loggers:
                logger.save()
            trainer.save_checkpoint(checkpoint_path(self.folder, trainer.global_step))
            self._written = trainer.global_step


class StopRequests(Callback):
    """Ends a run between two steps, with a checkpoint, where SIGTERM or SIGINT asks any rank to.

    The handler only notes the signal. A signal that the process was started to ignore, as SIGINT is
    in the background of a script, stays ignored. A second SIGINT, later than a second after the
    first, ends the run at once.

    Args:
        checkpoints: what writes the checkpoint.
        hours: since the command began, after which the run ends in the same way; None for no limit.
    """

    def __init__(self, checkpoints: Checkpoints, hours: float | None = None) -> None:
        self.checkpoints = checkpoints
        self.until = math.inf if hours is None else BEGAN + 3600 * hours
        self._signal, self._since = 0, 0.0
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen; a run that is not in the main thread cannot."""
        if threading.current_thread() is threading.main_thread():
            heard = [s for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
            self._before = {s: signal.signal(s, self._note) for s in heard}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Stop after the step in which any rank was asked to."""
        number = largest(self._signal or int(time.monotonic() > self.until))
        if not number:
            return
        # Once one process has ended, the launcher sends SIGTERM to the others, which end already.
        if number != TIME and signal.SIGTERM in self._before:
            self._before[signal.SIGTERM] = signal.SIG_IGN
        self.checkpoints.write(trainer)
        barrier()
        by = "its time limit" if number == TIME else signal.Signals(number).name
        raise RunStopped(
            0 if number == TIME else number,
            f"stopped by {by} after step {trainer.global_step} of {trainer.max_steps}; its "
            f"checkpoint is in {self.checkpoints.folder}; run the same command with this run_dir "
            "to resume from there",
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no longer."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self._signal == number == signal.SIGINT and now - self._since > ONE_REQUEST:
            raise KeyboardInterrupt
        self._signal, self._since = number, now
