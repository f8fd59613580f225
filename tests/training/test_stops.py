"""What ends a training before its last step, and what it leaves: signals, limits, no room."""

import json
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tdro_lightning.assembly import domains
from tdro_lightning.training.callbacks.checkpoints import Checkpoints, StopRequests
from tdro_lightning.training.history import History
from tdro_lightning.training.optim import Optimisation
from tests.command import assert_one_message
from tests.fixtures.commands import assert_same_results, kept, unfinish
from tests.made_up import TDRO
from tests.processes import Started


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_once_and_the_same_command_resumes(
    folder: Path, number: signal.Signals, code: int
) -> None:
    """The stopped and the undisturbed run end with the same bytes."""
    steps = ("trainer.steps=80",)
    process = Started(folder, *TDRO, *steps)
    history = folder / "run/history.csv"
    process.send_when(number, lambda: history.is_file() and "\n3," in history.read_text())
    assert process.wait(timeout=30) == code  # one step, a small checkpoint, and a busy machine
    errors = process.printed
    (name,) = kept(folder / "run")
    assert f"stopped by {number.name} after step {int(name[-7:])} of 80" in errors
    assert json.loads((folder / "run/run.json").read_text())["status"] == "stopped"
    assert "Traceback" not in errors
    assert Started(folder, *TDRO, *steps).wait() == 0
    assert Started(folder, *TDRO, *steps, "run_dir=alone").wait() == 0
    ours, theirs = ((folder / d / "weights.json").read_text() for d in ("run", "alone"))
    assert ours == theirs


def test_a_kill_in_the_first_save_begins_again(command, folder: Path, whole: Path) -> None:
    """The history has its steps, and there has never been a checkpoint."""
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run")
    history = folder / "run/history.csv"
    lines = [line for line in history.read_text().splitlines() if line[0] in "s01"]
    history.write_text("\n".join(lines) + "\n")
    (folder / "run/checkpoints/.step-0000002.1.tmp").mkdir()
    (folder / "run/.weights.json.1.tmp").touch()
    ended = command("trainer.steps=6")
    assert ended.code == 0, ended.err
    assert_same_results(folder / "run", whole)
    assert not list((folder / "run").rglob("*.tmp"))


def test_a_time_limit_ends_in_good_order(command, folder: Path, whole: Path) -> None:
    ended = command("trainer.steps=6", "trainer.max_hours=1e-9")
    assert ended.code == 0
    assert "stopped by its time limit after step 1 of 6" in ended.err
    assert json.loads((folder / "run/run.json").read_text())["status"] == "time_limit"
    assert not (folder / "run/weights.json").exists()
    ended = command("trainer.steps=6")
    assert ended.code == 0, ended.err
    assert_same_results(folder / "run", whole)
    ended = command("trainer.steps=6", "trainer.max_hours=0")
    assert ended.code == 2
    assert "trainer.max_hours=0.0 must be above 0 and at most 100,000, or null" in ended.err


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_no_memory_names_what_lowers_its_use(command, folder, monkeypatch, kind: type) -> None:
    update = Optimisation.update

    def full(self: Any, *given: Any) -> Any:
        if given[-1] == 3:
            raise kind("tried to allocate 2.00 GiB")
        return update(self, *given)

    monkeypatch.setattr(Optimisation, "update", full)
    ended = command("trainer.steps=6")
    assert ended.code == 6
    assert "out of memory in step 3 (tried to allocate 2.00 GiB)" in ended.err
    for key in ("chunk_tokens", "kept_tokens", "batch_size", "activation_checkpointing"):
        assert key in ended.err
    assert kept(folder / "run") == ["step-0000002"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A limit on the size of files, which stands for the end of the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_with_6_and_the_same_command_resumes(command, folder, whole) -> None:
    with files_of_at_most(40_000):
        ended = command("trainer.steps=6")
    assert ended.code == 6, ended.err
    assert "step-0000002: the checkpoint cannot be written" in ended.err
    assert not list((folder / "run/checkpoints").iterdir())
    ended = command("trainer.steps=6")
    assert ended.code == 0, ended.err
    assert_same_results(folder / "run", whole)


def test_a_history_that_cannot_be_written_ends_with_6(command, folder: Path, monkeypatch) -> None:
    rows = History.log_metrics

    def limited(self: Any, metrics: Any, step: int) -> None:
        with files_of_at_most(self.path.stat().st_size if step == 3 else 10**9):
            rows(self, metrics, step)

    monkeypatch.setattr(History, "log_metrics", limited)
    ended = command("trainer.steps=6")
    assert ended.code == 6, ended.err
    assert "run/history.csv: step 3 cannot be written (File too large)" in ended.err
    assert kept(folder / "run") == ["step-0000002"]


def test_too_little_room_is_told_before_the_first_step(command, folder, monkeypatch) -> None:
    free = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: free)
    ended = command("trainer.steps=6")
    assert ended.code == 6
    assert "run/checkpoints: checkpoints need" in ended.err
    assert not (folder / "run/history.csv").exists()


@pytest.mark.parametrize(
    ("place", "code"),
    [("taken", 6), ("taken/run", 6), ("/dev/null", 6), ("/proc/x", 6), ("long" * 80, 2)],
)
def test_a_run_folder_that_cannot_be_is_named(command, folder: Path, place: str, code: int) -> None:
    (folder / "taken").touch()
    ended = command("trainer.steps=6", f"run_dir={place}")
    assert ended.code == code
    shown = "run_dir: the name 'long" if code == 2 else f"run_dir={place}"
    assert_one_message(ended, f"^error: {shown}")
    assert len(ended.err) < 200


@pytest.mark.parametrize("again", [False, True])
def test_a_run_folder_that_is_removed_during_the_run_is_named(
    command, folder: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Also where a folder of that name is there again."""
    update = Optimisation.update

    def removed(self: Any, *given: Any) -> Any:
        if given[-1] == 3:
            shutil.rmtree(folder / "run")
            if again:
                (folder / "run").mkdir()
        return update(self, *given)

    monkeypatch.setattr(Optimisation, "update", removed)
    ended = command("trainer.steps=4", "trainer.checkpoint_every=null")
    assert ended.code == 6
    assert_one_message(ended, "^error: run_dir=run was removed during the run")
    assert ended.err.count("\n") == 1
    assert not (folder / "run/run.json").exists()


def test_a_stop_before_the_training_leaves_nothing_half_done(command, folder, monkeypatch) -> None:
    """While rows are read."""
    load = domains.load_domains

    def stopped(*given: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return load(*given, **named)

    monkeypatch.setattr(domains, "load_domains", stopped)
    ended = command("trainer.steps=6")
    assert ended.code == 143
    assert json.loads((folder / "run/run.json").read_text())["status"] == "stopped"
    assert not list((folder / "run").rglob("*.tmp"))
    monkeypatch.undo()


def test_a_second_ctrl_c_ends_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Later than a second after the first: a terminal's reaches a process twice."""
    stops = StopRequests(Checkpoints(tmp_path, None, {}))
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stops._note(signal.SIGINT, None)
    now = 100.5
    stops._note(signal.SIGINT, None)
    now = 103.0
    with pytest.raises(KeyboardInterrupt):
        stops._note(signal.SIGINT, None)
