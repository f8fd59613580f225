"""Folders whose only checkpoint, of step 20, is damaged or hostile, as a run that goes on reads it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tdro_lightning.training.checkpoint import newest_valid, read_checkpoint, write_checkpoint
from tests.malformed import Case
from tests.training.test_checkpoint import DAMAGE, MALICIOUS, state, write

FOLDER = "checkpoints"
STEP = f"{FOLDER}/step-0000020"


def damaged(damage: Callable[[Path], object], folder: Path) -> None:
    (folder / FOLDER).mkdir()
    write(folder / FOLDER, 20)
    damage(folder / STEP)
    newest_valid(folder / FOLDER)


def hostile(make: Callable[[Path], object], folder: Path) -> None:
    (folder / FOLDER).mkdir()
    content = state(20) | {"optimizer_states": make(folder / "canary")}
    write_checkpoint(folder / STEP, content)
    found = newest_valid(folder / FOLDER)
    assert found is not None
    read_checkpoint(found)


CASES = [
    *(
        Case(kind, partial(damaged, damage), 5, f"no usable checkpoint: {STEP}: ...{message}...")
        for kind, (damage, message) in DAMAGE.items()
    ),
    *(
        Case(f"hostile: {kind}", partial(hostile, make), 5, f"{STEP}/state.pt is not loaded: ...")
        for kind, make in MALICIOUS.items()
    ),
]
