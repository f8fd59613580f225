"""Going on with a run as a user does: what is compared, what is refused, what a stop leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tdro_lightning.checkpoint import read_checkpoint
from tests.command import Ended, run
from tests.made_up import tiny_model, write_domain_option, write_domains

ARGUMENTS = (
    "--config-dir=conf", "+experiment=tdro_qwen05b", "domains=made", "model.path=model",
    "model.lora=null", "module.reference=reference", "data.batch_size=6", "data.query_tokens=16",
    "data.passage_tokens=16", "data.workers=0", "trainer.precision=32-true",
    "logger.wandb=disabled", "run_dir=run",
)  # fmt: skip

Command = Callable[..., Ended]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_domain_option(folder, write_domains(folder / "rows"))
    tiny_model(folder / "model")
    tiny_model(folder / "reference", seed=1)
    return folder


@pytest.fixture
def folder(inputs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(inputs, tmp_path / "work"))


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], folder: Path) -> Command:
    return lambda *given: run(capfd, folder, *ARGUMENTS, "trainer.checkpoint_every=2", *given)


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps that nothing disturbed."""
    folder = Path(shutil.copytree(inputs, tmp_path_factory.mktemp("whole") / "work"))
    started(folder, "trainer.steps=6", "trainer.checkpoint_every=2").communicate(timeout=200)
    return folder / "run"


def started(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tdro_lightning", *ARGUMENTS, *overrides], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def kept(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def unfinish(run_dir: Path, *steps: str) -> None:
    """As if the run had been killed with the checkpoints of these steps."""
    record = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps(record | {"status": "running"}))
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


def test_an_unfinished_run_goes_on(command: Command, folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "run")
    assert kept(whole) == ["step-0000004", "step-0000006"]
    unfinish(folder / "run", "step-0000004")
    with (folder / "run/history.csv").open("a") as stream:
        stream.write("5,weights/ea")  # a line that a kill has cut short
    ended = command("trainer.steps=6")
    assert ended.code == 0, ended.err
    assert_same_results(folder / "run", whole)
    again = command("trainer.steps=6", "trainer.resume=must")  # at its end: nothing to do
    assert again.code == 0, again.err
    assert_same_results(folder / "run", whole)


def test_a_finished_run_starts_again_and_never_is_never(command, folder: Path, whole) -> None:
    shutil.copytree(whole, folder / "run")
    ended = command("trainer.steps=6")
    assert ended.code == 0, ended.err
    assert "step 1/6" in ended.out or "step 6/6" in ended.out
    assert_same_results(folder / "run", whole)
    unfinish(folder / "run", "step-0000004")
    ended = command("trainer.steps=3", "trainer.resume=never")
    assert ended.code == 0, ended.err
    assert "step 3/3" in ended.out


def test_more_steps_workers_and_loggers_are_accepted(command, folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "run")
    free = ("trainer.steps=7", "data.workers=1", "logger.project=other", "trainer.resume=must")
    ended = command(*free)
    assert ended.code == 0, ended.err
    assert "step 7/7" in ended.out
    history = (folder / "run/history.csv").read_text().splitlines()
    before = (whole / "history.csv").read_text().splitlines()
    assert history[: len(before)] == before


def test_a_model_that_has_moved_is_the_same(command, folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run", "step-0000004")
    (folder / "reference").rename(folder / "elsewhere")
    (folder / "model").rename(folder / "base")
    ended = command("trainer.steps=6", "module.reference=elsewhere", "model.path=base")
    assert ended.code == 0, ended.err
    record = json.loads((folder / "run/run.json").read_text())
    assert record["status"] == "finished"


CHANGES = {
    "temperature": (["module.temperature=0.01"], r"module.temperature +0.002 +0.01"),
    "negatives": (["data.negatives=3"], r"data.negatives +7 +3"),
    "seed": (["seed=5"], r"seed +42 +5"),
    "rate": (["optimiser.lr=0.5"], r"optimiser.lr +0.0001 +0.5"),
    "prompts": (
        ["domains.catalogue.easy.prompts=[Seek]"],
        r"easy.prompts +\['Find it'\] +\['Seek'",
    ),
    "domains": (["domains.only=[easy,hard]"], r"content of domain middle +[0-9a-f]+... +None"),
    "adapter": (["model.lora={r: 2, alpha: 4, dropout: 0.0}"], r"model.lora.r +None +2"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_matters_may_not_change(command, folder: Path, whole: Path, kind: str) -> None:
    import re

    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run", "step-0000004")
    overrides, line = CHANGES[kind]
    ended = command("trainer.steps=6", *overrides)
    assert ended.code == 2
    assert "step-0000004 is of another run than this one" in ended.err
    assert re.search(r"what +checkpoint +now", ended.err)
    assert re.search(line, ended.err), ended.err
    assert "trainer.resume=never" in ended.err
    assert kept(folder / "run") == ["step-0000004"]


@pytest.mark.parametrize("what", ["rows/hard.jsonl", "model/model.safetensors", "reference"])
def test_what_is_read_may_not_change(command, folder: Path, whole: Path, what: str) -> None:
    """By content, with the old size and time."""
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run", "step-0000004")
    path = folder / what
    if path.is_dir():
        tiny_model(path, seed=9)
    else:
        times = path.stat()
        content = bytearray(path.read_bytes())
        place = content.find(b"stone") if path.suffix == ".jsonl" else len(content) - 1
        content[place] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    ended = command("trainer.steps=6")
    assert ended.code == 2
    label = {"rows/hard.jsonl": "domain hard", "model/model.safetensors": "model"}
    assert f"content of {label.get(what, what)} " in ended.err


def test_never_silently_from_the_start(command, folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run")
    ended = command("trainer.steps=6")
    assert ended.code == 5
    assert "holds no checkpoint" in ended.err
    assert "the run's history has 6 steps" in ended.err
    shutil.copytree(whole / "checkpoints", folder / "run/checkpoints", dirs_exist_ok=True)
    for path in (folder / "run/checkpoints").iterdir():
        os.truncate(path / "state.pt", 10)
    ended = command("trainer.steps=6")
    assert ended.code == 5
    assert ended.err.count("has 10 bytes instead of") >= 2
    history = (folder / "run/history.csv").read_text()
    assert history == (whole / "history.csv").read_text()


def test_resume_must_needs_a_checkpoint(command, folder: Path) -> None:
    ended = command("trainer.steps=6", "trainer.resume=must")
    assert ended.code == 5
    assert "run/checkpoints holds no checkpoint" in ended.err


def test_fewer_steps_than_done_are_refused(command, folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "run")
    ended = command("trainer.steps=5", "trainer.resume=must")
    assert ended.code == 2
    assert "trainer.steps=5, but run/checkpoints/step-0000006 is already at step 6" in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_once_and_the_same_command_goes_on(
    folder: Path, number: signal.Signals, code: int
) -> None:
    """The stopped and the undisturbed run end with the same bytes."""
    steps = ("trainer.steps=80",)
    process = started(folder, *steps)
    history = folder / "run/history.csv"
    while process.poll() is None and not (history.is_file() and "\n3," in history.read_text()):
        time.sleep(0.02)
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 30  # one step, a small checkpoint, and a busy machine
    assert process.returncode == code, errors
    (name,) = kept(folder / "run")
    assert f"stopped by {number.name} after step {int(name[-7:])} of 80" in errors
    assert json.loads((folder / "run/run.json").read_text())["status"] == "stopped"
    assert "Traceback" not in errors
    assert started(folder, *steps).wait(timeout=100) == 0
    alone = started(folder, *steps, "run_dir=alone")
    assert alone.wait(timeout=100) == 0
    ours, theirs = ((folder / d / "weights.json").read_text() for d in ("run", "alone"))
    assert ours == theirs
