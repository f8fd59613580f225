"""A small tDRO run, undisturbed, and what one that was disturbed is compared with."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tdro_lightning.checkpoint import read_checkpoint
from tdro_lightning.files import write_checked_json
from tests.command import Ended, run
from tests.made_up import TDRO, write_inputs

Command = Callable[..., Ended]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def folder(inputs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(inputs, tmp_path / "work"))


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], folder: Path) -> Command:
    return lambda *given: run(capfd, folder, *TDRO, "trainer.checkpoint_every=2", *given)


@pytest.fixture(scope="session")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps that nothing disturbed."""
    folder = Path(shutil.copytree(inputs, tmp_path_factory.mktemp("whole") / "work"))
    started(folder, "trainer.steps=6", "trainer.checkpoint_every=2").communicate(timeout=200)
    return folder / "run"


def started(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tdro_lightning", *TDRO, *overrides], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def kept(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def unfinish(run_dir: Path, *steps: str) -> None:
    """As if the run had been killed with the checkpoints of these steps."""
    record = json.loads((run_dir / "run.json").read_text())
    write_checked_json(run_dir / "run.json", record | {"status": "running"})
    (run_dir / "weights.json").unlink()
    for path in (run_dir / "checkpoints").iterdir():
        if path.name not in steps:
            shutil.rmtree(path)


def assert_same_results(run_dir: Path, whole: Path) -> None:
    for name in ("weights.json", "history.csv"):
        ours, theirs = (
            [line for line in (place / name).read_text().splitlines() if "speed/" not in line]
            for place in (run_dir, whole)
        )
        assert ours == theirs, name
    last = [read_checkpoint(place / "checkpoints/step-0000006") for place in (run_dir, whole)]
    for key in ("state_dict", "optimizer_states", "domain_weights", "global_step"):
        assert_identical(last[0][key], last[1][key])
    assert all(name.startswith("proxy.") for name in last[0]["state_dict"])  # no reference


def assert_identical(one: Any, other: Any) -> None:
    """Bit for bit, all the way down."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_identical(value, other[key])
    elif isinstance(one, (list, tuple)):
        for ours, theirs in zip(one, other, strict=True):
            assert_identical(ours, theirs)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7))
    else:
        assert one == other
