"""A tracker that is not there, goes away or is full never ends a run."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tdro_lightning.files import write_checked_json
from tdro_lightning.runs import trackers


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an account, and with a server that nobody is."""
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(trackers, "WAIT", 3.0)


def steps(run_dir: Path) -> list[int]:
    lines = (run_dir / "history.csv").read_text().splitlines()[1:]
    return sorted({int(line.split(",")[0]) for line in lines})


@pytest.mark.parametrize("key", [None, "0123456789abcdef" * 2 + "01234567"])
def test_without_account_or_server_a_run_goes_on_offline(command, folder, key, monkeypatch):
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    began = time.monotonic()
    ended = command("trainer.steps=3", "logger.wandb=online")
    assert time.monotonic() - began < 60
    assert ended.code == 0, ended.err
    assert "W&B cannot start online (" in ended.out
    assert "the run continues offline" in ended.out
    assert len(list((folder / "run/wandb").glob("offline-run-*/*.wandb"))) == 1
    assert steps(folder / "run") == [0, 1, 2]


def test_a_tracker_that_dies_or_takes_no_more_ends_no_run(command, folder, monkeypatch) -> None:
    seen: list[int] = []
    log = trackers.WandbLogger.log_metrics

    def failing(self, metrics, step=None):
        seen.append(step)
        if step == 1:
            raise OSError(28, "No space left on device")
        log(self, metrics, step)

    monkeypatch.setattr(trackers.WandbLogger, "log_metrics", failing)
    ended = command("trainer.steps=4", "logger.wandb=offline")
    assert ended.code == 0, ended.err
    assert ended.out.count("W&B accepts no more values (OSError: [Errno 28] No space left") == 1
    assert max(seen) == 1
    assert steps(folder / "run") == [0, 1, 2, 3]


def test_its_own_process_may_be_killed(command, folder, monkeypatch) -> None:
    log = trackers.WandbLogger.log_metrics
    killed: list[int] = []

    def killing(self, metrics, step=None):
        if step == 1 and not killed:
            killed.extend(children("wandb-core"))
            for process in killed:
                os.kill(process, signal.SIGKILL)
        log(self, metrics, step)

    monkeypatch.setattr(trackers.WandbLogger, "log_metrics", killing)
    ended = command("trainer.steps=4", "logger.wandb=offline")
    assert killed
    assert ended.code == 0, ended.err
    assert steps(folder / "run") == [0, 1, 2, 3]
    assert command("trainer.steps=2", "trainer.resume=never").code == 0  # and the next one begins


def children(name: str) -> list[int]:
    """Processes below this one whose command has a name."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_text()
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if name in command and parent == os.getpid():
            found.append(int(path.name))
    return found


def test_the_parts_of_a_run_that_goes_on_share_a_group(command, folder, monkeypatch) -> None:
    import wandb

    begun: list[tuple[str, int]] = []
    init = wandb.init

    def seen(**given):
        begun.append((given["group"], given["config"]["resumed_at_step"]))
        return init(**given)

    monkeypatch.setattr(wandb, "init", seen)
    assert command("trainer.steps=2", "logger.wandb=offline").code == 0
    ended = command("trainer.steps=4", "trainer.resume=must", "logger.wandb=offline")
    assert ended.code == 0, ended.err
    assert steps(folder / "run") == [0, 1, 2, 3]
    name = json.loads((folder / "run" / trackers.RUN_ID).read_text())["id"]
    assert begun == [(name, 0), (name, 2)]
    assert len(list((folder / "run/wandb").glob("offline-run-*/*.wandb"))) == 2


def test_the_jobs_of_a_sweep_share_a_group_also_when_resumed(command, folder, monkeypatch) -> None:
    import wandb

    begun: list[tuple[str, str, str, int]] = []
    init = wandb.init

    def seen(**given):
        place = Path(given["dir"]).name
        begun.append((place, given["name"], given["group"], given["config"]["resumed_at_step"]))
        return init(**given)

    monkeypatch.setattr(wandb, "init", seen)
    rules = ("uniform", "proportional")
    jobs = {
        name: {"transfer.rule": rule, "seed": "1"} for name, rule in zip("01", rules, strict=True)
    }
    plan = {"command": "sweep", "jobs": list(jobs.values())}
    write_checked_json(folder / "sweep.json", plan)
    for name, swept in jobs.items():
        record = {"swept": swept, "status": "running", "code": None, "error": None}
        write_checked_json(folder / name / "job.json", record)
        ended = command("trainer.steps=2", "logger.wandb=offline", f"run_dir={name}", "name=x")
        assert ended.code == 0, ended.err
    ended = command(
        "trainer.steps=3", "trainer.resume=must", "logger.wandb=offline", "run_dir=1", "name=x"
    )
    assert ended.code == 0, ended.err
    group = f"{folder.parent.name}/{folder.name}"
    names = {name: f"x [rule={rule}, seed=1]" for name, rule in zip("01", rules, strict=True)}
    assert begun == [
        ("0", names["0"], group, 0), ("1", names["1"], group, 0), ("1", names["1"], group, 2),
    ]  # fmt: skip
