"""Work that is timed in turns, so that a machine's drift meets all of it, and its memory."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning import Callback
from steps import now

from tdro_lightning.data.collator import Batch

Work = Callable[[], object]
MEGA = 1e6


class Rounds(Callback):
    """Batches of a Trainer whose steps are timed in turn with other work.

    A step's clock starts when the Trainer asks for a batch and stops when it asks for the next one,
    so that it holds all that the Trainer does for a step: hooks, logging, copies to a device. Give
    it to the Trainer both as its data and as a callback.

    Args:
        batches: by name, a batch for each round.
        others: named work, each done once a round.
        count: rounds.

    Attributes:
        taken: seconds in each round, by name.
    """

    def __init__(
        self, batches: Mapping[str, Sequence[Batch]], others: Mapping[str, Work], count: int
    ) -> None:
        self.batches, self.others, self.count = batches, others, count
        self.taken: dict[str, list[float]] = {name: [] for name in (*batches, *others)}
        self._open: tuple[str, float] | None = None

    def __len__(self) -> int:
        return self.count * len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.count):
            self._stop()
            for name, work in self.others.items():
                self.taken[name].append(seconds(work))
            for name, batches in self.batches.items():
                self._stop()
                self._open = name, now()
                yield batches[number]

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """The last step has no next one."""
        self._stop()

    def _stop(self) -> None:
        if self._open is not None:
            name, began = self._open
            self.taken[name].append(now() - began)
            self._open = None


def fastest(
    tune: Callable[[int], None], work: Work, settings: Sequence[int], repeats: int = 3
) -> int:
    """The setting with which some work has the least median, over repeats of all settings in turn.

    Args:
        tune: takes a setting.
        work: what is timed with it, once before any time counts.
        settings: what is tried.
        repeats: of each setting.
    """
    taken: dict[int, list[float]] = {setting: [] for setting in settings}
    tune(settings[0])
    work()
    for _ in range(repeats):
        for setting in settings:
            tune(setting)
            taken[setting].append(seconds(work))
    return min(settings, key=lambda setting: median(taken[setting]))


def seconds(work: Work) -> float:
    """Seconds that some work takes."""
    began = now()
    work()
    return now() - began


def growth(work: Work) -> float:
    """MB that some work adds to what is held when it begins, at its worst moment.

    On a CPU it is the growth of the process, so ask it once in a process of its own.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - held) / MEGA
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
    held = _process_bytes("VmRSS")
    work()
    # The kernel counts some hundred pages too many or too few, so a small growth may look negative.
    return max(0.0, (_process_bytes("VmHWM") - held) / MEGA)


def _process_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
