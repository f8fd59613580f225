"""What our checks cost: a step with all of them against the same step with none, in turn.

Checks are the finite losses, the measurement's floor, the history, the throughput, and whether to
save or to stop. See README.md beside this file.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench import DEFAULTS
from lightning import Callback
from steps import trainer
from workbench import Choice, Workbench

from tdro_lightning.console.libraries import quiet_libraries
from tdro_lightning.data.collator import Batch
from tdro_lightning.training import checkpoint, tdro
from tdro_lightning.training.callbacks import throughput as throughput_module
from tdro_lightning.training.callbacks.checkpoints import Checkpoints, StopRequests
from tdro_lightning.training.callbacks.throughput import Throughput
from tdro_lightning.training.history import History


class Switch:
    """Turns calls on and off, and adds up the seconds spent in those that are on."""

    def __init__(self) -> None:
        self.on = False
        self.spent = 0.0
        self._inside = False

    def wrap(self, place: Any, name: str) -> None:
        """Put the switch in front of a function or method."""
        call: Callable[..., Any] = getattr(place, name)

        def switched(*given: Any, **named: Any) -> Any:
            if not self.on:
                return None
            if self._inside:  # its time is in the outer one's
                return call(*given, **named)
            self._inside, began = True, time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self.spent += time.perf_counter() - began
                self._inside = False

        setattr(place, name, switched)


class Turns:
    """A batch again and again, with the checks on and off in turn, and what each step took."""

    def __init__(self, batch: Batch, pairs: int, switch: Switch) -> None:
        self.batch, self.pairs, self.switch = batch, pairs, switch
        self.wall: dict[bool, list[float]] = {True: [], False: []}
        self.processor: dict[bool, list[float]] = {True: [], False: []}
        self.spent: list[float] = []

    def __len__(self) -> int:
        return 2 * self.pairs

    def __iter__(self) -> Iterator[Batch]:
        for number in range(2 * self.pairs):
            # On, off, off, on: what drifts meets both alike.
            on = self.switch.on = number % 4 in (0, 3)
            self.switch.spent = 0.0
            wall, processor = time.perf_counter(), time.process_time()
            yield self.batch
            self.wall[on].append(time.perf_counter() - wall)
            self.processor[on].append(time.process_time() - processor)
            if on:
                self.spent.append(self.switch.spent / self.wall[True][-1])


def measured(batch_size: int, pairs: int) -> dict[str, float]:
    """Ratios of steps with all checks to steps without, the share spent in them, a save's time."""
    defaults = DEFAULTS["cpu"] | {"tdro_batch": batch_size}
    choice = Choice(
        device="cpu", lora=False, padded_batch=None, mini_batch_tokens=None,
        deep_mini_batch_tokens=None, encode_batch=None, repeats=pairs, seed=0, **defaults,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(choice, Path(folder))
        settings = bench.settings("tdro", choice.kept_tokens)
        module = bench.tdro(settings, batch_size)
        batch = bench.batch(bench.examples(batch_size, 7, batch_size))
        saves = Checkpoints(Path(folder) / "checkpoints", None, {})
        throughput = Throughput(module.proxy, module.reference)
        callbacks: Sequence[Callback] = (throughput, saves, StopRequests(saves))
        switch = Switch()
        for place in (tdro, throughput_module):
            switch.wrap(place, "log_now")
        switch.wrap(tdro, "require_finite_losses")
        for name in ("look_at_floor", "look_at_loss"):
            switch.wrap(module.watches, name)
        for callback in callbacks:
            switch.wrap(callback, "on_train_batch_end")
        turns = Turns(batch, pairs, switch)
        run = trainer(settings, len(turns), *callbacks, logger=History(Path(folder)))
        run.fit(module, turns)
        began = time.perf_counter()
        state = run._checkpoint_connector.dump_checkpoint(weights_only=False)
        path = checkpoint.checkpoint_path(saves.folder, 1)
        checkpoint.write_checkpoint(path, state | {"run": {}})
        save = time.perf_counter() - began
        size = (path / checkpoint.STATE).stat().st_size
    skipped = 2  # of each: the first steps warm up
    return {
        "ratio": median(turns.wall[True][skipped:]) / median(turns.wall[False][skipped:]),
        "processor ratio": (
            median(turns.processor[True][skipped:]) / median(turns.processor[False][skipped:])
        ),
        "spent": median(turns.spent[skipped:]),
        "step seconds": median(turns.wall[False][skipped:]),
        "save seconds": save,
        "save megabytes": size / 1e6,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=25, help="queries, each of its own domain")
    parser.add_argument("--pairs", type=int, default=20)
    options = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    for name, value in measured(options.batch, options.pairs).items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    main()
