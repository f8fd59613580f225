"""Going on with a run as a user does: what is compared, what is refused, what a stop leaves."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tdro_lightning.callbacks.checkpoints import Checkpoints, Stops
from tdro_lightning.callbacks.history import History
from tdro_lightning.checkpoint import read_checkpoint, write_checkpoint
from tdro_lightning.optim import Optimisation
from tdro_lightning.stages import domains
from tests.command import Ended, run
from tests.made_up import tiny_model, write_domain_option, write_domains
from tests.test_checkpoint import Payload

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


def test_an_unfinished_run_goes_on(command: Command, folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "run")
    assert kept(whole) == ["step-0000004", "step-0000006"]
    unfinish(folder / "run", "step-0000004")
    with (folder / "run/history.csv").open("a") as stream:
        stream.write("5,weights/ea")  # a line that a kill has cut short
    ended = command("trainer.steps=6", "data.workers=2")  # they change nothing
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


def test_the_order_of_the_domains_may_change(command, folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run", "step-0000004")
    ended = command("trainer.steps=6", "domains.only=[hard,easy,middle]")
    assert ended.code == 0, ended.err
    ours, theirs = (
        json.loads((place / "weights.json").read_text())["domain_weights"]
        for place in (folder / "run", whole)
    )
    assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(
    "what", ["rows/hard.jsonl", "model/model.safetensors", "model/tokenizer.json", "reference"]
)
def test_what_is_read_may_not_change(command, folder: Path, whole: Path, what: str) -> None:
    """By content, with the old size and time."""
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run", "step-0000004")
    path = folder / what
    if path.is_dir():
        tiny_model(path, seed=9)
    elif path.suffix == ".json":
        path.write_text(path.read_text() + " ")
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
    label["model/tokenizer.json"] = "model"
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


def test_a_reference_that_is_gone_is_named(command, folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run", "step-0000004")
    shutil.rmtree(folder / "reference")
    began = time.monotonic()
    ended = command("trainer.steps=6")
    assert ended.code in (2, 3)
    assert "reference" in ended.err
    assert time.monotonic() - began < 10
    assert kept(folder / "run") == ["step-0000004"]


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


def test_a_run_that_starts_again_removes_the_old_checkpoints(command, folder, whole) -> None:
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run", "step-0000004")
    ended = command("trainer.steps=6", "trainer.resume=never", "trainer.max_hours=1e-9")
    assert ended.code == 0, ended.err
    assert kept(folder / "run") == ["step-0000001"]


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
    assert "trainer.max_hours=0.0 must be above 0" in ended.err


def test_variables_of_slurm_change_nothing(command, folder: Path, whole, monkeypatch) -> None:
    """As they are in the shell of a job that starts one process by itself."""
    numbers = {"JOB_ID": 1, "NTASKS": 4, "NTASKS_PER_NODE": 4, "PROCID": 3, "LOCALID": 3}
    for name, value in {**numbers, "NODEID": 0, "NNODES": 1, "JOB_NAME": "tdro"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    ended = command("trainer.steps=6")
    assert ended.code == 0, ended.err
    assert_same_results(folder / "run", whole)


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


def test_a_full_disk_ends_with_6_and_the_same_command_goes_on(command, folder, whole) -> None:
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


def test_a_run_folder_in_a_file_s_place_is_named(command, folder: Path) -> None:
    (folder / "taken").touch()
    ended = command("trainer.steps=6", "run_dir=taken/run")
    assert ended.code == 6
    assert "taken" in ended.err


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
    stops = Stops(Checkpoints(tmp_path, None, {}))
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stops._note(signal.SIGINT, None)
    now = 100.5
    stops._note(signal.SIGINT, None)
    now = 103.0
    with pytest.raises(KeyboardInterrupt):
        stops._note(signal.SIGINT, None)


def test_a_hostile_checkpoint_is_refused_by_the_command(command, folder, whole) -> None:
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run", "step-0000004")
    path = folder / "run/checkpoints/step-0000004"
    held = json.loads((path / "manifest.json").read_text())
    shutil.rmtree(path)
    canary = folder / "canary"
    write_checkpoint(path, {"run": held["run"], "code": Payload(os.system, f"touch {canary}")})
    ended = command("trainer.steps=6")
    assert ended.code == 5
    assert "step-0000004/state.pt is not loaded" in ended.err
    assert not canary.exists()
