"""A run folder says in words how its run stands, and belongs to one run at a time."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import collect_warnings, note_warning, withdraw_warning
from tdro_lightning.errors import ConfigError, DataError, NonFiniteError, ResourceError, RunStopped
from tdro_lightning.runs import record, status
from tdro_lightning.stages import stages
from tests.command import run
from tests.made_up import CHEAP, write_cheap_inputs
from tests.test_configs import composed

HOLDER = """
import sys, time
from tests.test_configs import composed
from tdro_lightning.runs import record, status
from tdro_lightning.console.output import note_warning, collect_warnings, withdraw_warning
config = composed("+experiment=validate")
with status.run_lock(config), status.status_file(config):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return composed("+experiment=validate")


def written() -> dict[str, Any]:
    return json.loads(Path("run/status.json").read_text(encoding="utf-8"))


ENDS = [
    (None, "finished", 0, "in run"),
    (DataError("nq.jsonl:3: no"), "failed", 3, "nq.jsonl:3: no"),
    (ConfigError("api_key=abc"), "failed", 2, "api_key=***"),
    (NonFiniteError("NaN in nq"), "failed", 4, "NaN in nq"),
    (ResourceError("disk full"), "failed", 6, "disk full"),
    (RunStopped(15, "stopped at step 3"), "stopped", 143, "stopped at step 3"),
    (KeyboardInterrupt(), "stopped", 130, "stopped by Ctrl-C"),
    (ZeroDivisionError("by zero"), "failed", 1, "ZeroDivisionError: by zero"),
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end[0]).__name__)
def test_every_end_is_described_in_words(config: Config, end: tuple[Any, str, int, str]) -> None:
    error, word, code, reason = end
    with contextlib.suppress(BaseException), status.status_file(config):
        began = written()
        if error is not None:
            raise error
    assert (began["status"], began["exit_code"]) == ("running", None)
    assert str(os.getpid()) in began["reason"]
    content = written()
    assert (content["status"], content["exit_code"]) == (word, code)
    assert reason in content["reason"]
    assert content["next"]


def test_a_command_leaves_its_status(tmp_path: Path, capfd) -> None:
    write_cheap_inputs(tmp_path)
    assert run(capfd, tmp_path, *CHEAP, "run_dir=run").code == 0
    content = json.loads((tmp_path / "run/status.json").read_text())
    assert (content["status"], content["exit_code"], content["changed"]) == ("finished", 0, [])
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "finished"


def test_what_has_changed_since_an_unfinished_run_is_told(config: Config) -> None:
    from dataclasses import asdict

    before = {**asdict(config), "seed": 7}
    Path("run").mkdir()
    record = {"status": "stopped", "stage": config.stage, "config": before}
    Path("run/run.json").write_text(json.dumps(record), encoding="utf-8")
    with status.status_file(config):
        pass
    assert written()["changed"] == ["seed: 7 -> 42"]


def test_a_run_begun_while_an_error_is_handled_ends_as_itself(config: Config) -> None:
    """A caller may try again in its `except`: the error there is not the run's."""
    write_cheap_inputs(Path.cwd())
    Path("run").mkdir(exist_ok=True)
    try:
        raise RuntimeError("of before")
    except RuntimeError:
        with (
            status.status_file(config),
            record.run_record(stages()[config.stage], config, "command"),
        ):
            pass
    assert written()["status"] == "finished"
    assert json.loads(Path("run/run.json").read_text())["status"] == "finished"


def test_a_second_run_is_refused_and_a_killed_one_s_lock_is_free(config: Config, capfd) -> None:
    write_cheap_inputs(Path.cwd())
    root = Path(__file__).parents[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        ended = run(capfd, Path.cwd(), *CHEAP, "run_dir=run")
        assert ended.code == 2
        message = f"error: run_dir=run is in use by process {holder.pid} on {os.uname().nodename};"
        assert ended.err.startswith(message)
        there = {path.name for path in Path("run").iterdir()}
        assert there == {
            ".lock",
            ".owner",
            "status.json",
            "tdro_lightning.log",
        }  # nothing of the second
        assert written()["process"] == holder.pid
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert written()["status"] == "running"  # nobody could write more
    began = time.monotonic()
    with status.run_lock(config), status.status_file(config):
        assert written()["process"] == os.getpid()
    assert time.monotonic() - began < 5


def test_a_process_s_own_folder_is_refused_too(config: Config) -> None:
    with (
        status.run_lock(config),
        pytest.raises(
            ConfigError, match=f"in use by process {os.getpid()} on {os.uname().nodename}"
        ),
        status.run_lock(config),
    ):
        pass
    with status.run_lock(config):
        pass


def test_what_a_run_warns_of_is_in_its_folder(config: Config) -> None:
    with (
        collect_warnings() as warnings,
        status.status_file(config, warnings),
        record.run_record(stages()[config.stage], config, "command", warnings),
    ):
        note_warning("the loss stands still")
        note_warning("the floor is lost")
        withdraw_warning("the floor is lost")
    for name in ("status.json", "run.json"):
        assert json.loads(Path("run", name).read_text())["warnings"] == ["the loss stands still"]
