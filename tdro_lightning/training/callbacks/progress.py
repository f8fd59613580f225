"""How far a training run is: a live table on a terminal, plain lines in a log file."""

import textwrap
import time
from dataclasses import dataclass, field
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tdro_lightning.console.durations import format_duration
from tdro_lightning.console.output import QUIET, is_live, show, show_status, tell
from tdro_lightning.console.screen import WIDTH
from tdro_lightning.data.collator import Batch
from tdro_lightning.training.history import History
from tdro_lightning.training.tdro import TDROModule

IN_LINE, IN_TABLE = 3, 8  # domains shown, largest weights first
AT_SPACES: Any = {"break_long_words": False, "break_on_hyphens": False}


@dataclass(frozen=True)
class State:
    """Where a run stands after a step.

    Attributes:
        title: what is being trained.
        step: steps done, of `steps`.
        metrics: the step's loss and, where they are known, `loss/proxy/<domain>` and others.
        weights: of the domains; none in fine-tuning.
        speed: passages a second.
        left: seconds to the end at the pace so far.
    """

    title: str
    step: int
    steps: int
    metrics: dict[str, float]
    speed: float
    left: float
    weights: dict[str, float] = field(default_factory=dict)

    def largest(self, count: int) -> list[tuple[str, float, float]]:
        """Domains of largest weight, with weight and its change from the uniform start."""
        ranked = sorted(self.weights, key=self.weights.__getitem__, reverse=True)[:count]
        start = 1 / max(1, len(self.weights))
        changes = {name: round(self.weights[name] - start, 3) + 0.0 for name in ranked}  # no -0.0
        return [(name, self.weights[name], changes[name]) for name in ranked]

    def validation(self) -> list[str]:
        """The latest scores on a dev set, where there are any."""
        found = {name: self.metrics.get(f"validation/{name}") for name in ("ndcg@10", "loss")}
        return [f"validation {name} {v:.3f}" for name, v in found.items() if v is not None]

    def line(self) -> str:
        """The state in a line, broken where it is wider than a terminal."""
        parts = [f"{self.title}: step {self.step}/{self.steps}, loss {self.metrics['loss']:.3f}"]
        if largest := [f"{n} {w:.3f} ({c:+.3f})" for n, w, c in self.largest(IN_LINE)]:
            parts.append("largest weights " + ", ".join(largest))
        parts += self.validation()
        parts += [f"{self.speed:,.0f} passages/s", f"{format_duration(self.left)} left"]
        return textwrap.fill(", ".join(parts), WIDTH, subsequent_indent="  ", **AT_SPACES)

    def picture(self) -> Group:
        """The state as a table for the live view."""
        head = Table.grid(padding=(0, 2, 0, 0))
        head.add_row(
            ProgressBar(total=self.steps, completed=self.step, width=10),
            Text(f"step {self.step}/{self.steps}"),
            Text(f"loss {self.metrics['loss']:.3f}"),
            Text(f"{self.speed:,.0f} passages/s"),
            Text(f"{format_duration(self.left)} left"),
        )
        title = Text(self.title, style="bold", overflow="ellipsis", no_wrap=True)
        scores = [Text(", ".join(found))] if (found := self.validation()) else []
        return Group(title, head, *scores, *([self._weights()] if self.weights else []))

    def _weights(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("domain", no_wrap=True, max_width=32)
        for title in ("weight", "change", "proxy loss", "reference"):
            table.add_column(title, justify="right", no_wrap=True)
        for name, weight, change in self.largest(IN_TABLE):
            losses = (self.metrics.get(f"loss/{kind}/{name}") for kind in ("proxy", "reference"))
            style = "green" if change > 0 else "red"
            table.add_row(
                Text(name),
                f"{weight:.3f}",
                Text(f"{change:+.3f}", style=style),
                *("" if loss is None else f"{loss:.3f}" for loss in losses),
            )
        if (rest := len(self.weights) - IN_TABLE) > 0:
            table.add_row(Text(f"and {rest} more", style="dim"))
        return table


class Progress(Callback):
    """Shows step, losses, the largest domain weights, passages a second and the time left.

    Args:
        title: what is being trained.
        seconds: least time between two lines.
    """

    def __init__(self, title: str, seconds: float = QUIET) -> None:
        self.title = title
        self.seconds = seconds
        self.state: State | None = None
        self._began = self._printed = 0.0
        self._first_step = self._passages = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = self._printed = time.monotonic()
        self._first_step = trainer.global_step
        show_status("first step")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *rest: Any
    ) -> None:
        """Show the state; as a line if the last one is old enough, and always at the end."""
        self._passages += trainer.world_size * len(batch.passages)
        if not trainer.is_global_zero:
            return
        now, step, steps = time.monotonic(), trainer.global_step, trainer.max_steps
        seconds = now - self._began
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for logger in trainer.loggers:
            if isinstance(logger, History):
                metrics = logger.latest | metrics
        weights: dict[str, float] = {}
        if isinstance(pl_module, TDROModule):
            learned = pl_module.weights
            weights = dict(zip(learned.names, learned.last.tolist(), strict=True))
        left = seconds / max(1, step - self._first_step) * (steps - step)
        speed = self._passages / seconds
        self.state = state = State(self.title, step, steps, metrics, speed, left, weights)
        show_status(f"in step {min(step + 1, steps)} of {steps}")
        show(state.picture)
        last = step == steps or trainer.should_stop
        if last or (not is_live() and now - self._printed >= self.seconds):
            self._printed = now
            tell(state.line())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The picture goes; the last line stays."""
        show(None)
        show_status("writing the results")
