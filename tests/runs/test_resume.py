"""Going on with a run as a user does: what is compared, and what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tdro_lightning.training.checkpoint import write_checkpoint
from tests.command import run
from tests.fixtures.commands import Command, assert_same_results, kept, unfinish
from tests.made_up import TDRO, tiny_model
from tests.nightly import nightly_but
from tests.processes import Started
from tests.training.test_checkpoint import Payload


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


def test_a_run_that_starts_again_removes_the_old_checkpoints(command, folder, whole) -> None:
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run", "step-0000004")
    ended = command("trainer.steps=6", "trainer.resume=never", "trainer.max_hours=1e-9")
    assert ended.code == 0, ended.err
    assert kept(folder / "run") == ["step-0000001"]


def test_variables_of_slurm_change_nothing(command, folder: Path, whole, monkeypatch) -> None:
    """As they are in the shell of a job that starts one process by itself."""
    numbers = {"JOB_ID": 1, "NTASKS": 4, "NTASKS_PER_NODE": 4, "PROCID": 3, "LOCALID": 3}
    for name, value in {**numbers, "NODEID": 0, "NNODES": 1, "JOB_NAME": "tdro"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    ended = command("trainer.steps=6")
    assert ended.code == 0, ended.err
    assert_same_results(folder / "run", whole)


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


def test_a_changed_history_is_announced(command, folder: Path, whole: Path) -> None:
    history = (whole / "history.csv").read_bytes()
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run", "step-0000004")
    path = folder / "run/history.csv"
    path.write_bytes(history.replace(b"\n1,loss,", b"\n1,loss,9", 1))
    ended = command("trainer.steps=6")
    assert ended.code == 0, ended.err
    assert "history.csv has changed: its lines before that step are not the run's" in ended.out
    unfinish(folder / "run", "step-0000004")
    path.write_bytes(history.replace(b"\n1,loss,", b"\nx,loss,", 1))
    ended = command("trainer.steps=6")
    assert ended.code == 3
    assert "run/history.csv: is damaged" in ended.err
    path.write_bytes(history)
    ended = command("trainer.steps=6")
    assert ended.code == 0, ended.err
    assert "history.csv has changed" not in ended.out


def test_another_schedule_is_announced(command, folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "run")
    unfinish(folder / "run", "step-0000004")
    ended = command("trainer.steps=5")
    assert ended.code == 0, ended.err
    assert "resuming at step 4 of 5 (was 6: the learning-rate schedule changes)" in ended.out


def test_another_number_of_threads_is_announced_and_the_old_one_can_be_had(
    command, folder: Path, whole: Path
) -> None:
    """The bits of a sum depend on it; the number of the first run gives its bits again."""
    shutil.copytree(whole, folder / "run")
    assert json.loads((whole / "run.json").read_text())["hardware"]["threads"] == 1
    unfinish(folder / "run", "step-0000004")
    options = ("trainer.steps=6", "trainer.threads=2", "trainer.checkpoint_every=2")
    process = Started(folder, *TDRO, *options)
    assert process.wait() == 0, process.printed
    printed = process.printed
    assert "threads 2 (was 1): the results equal an uninterrupted run's up to rounding" in printed
    assert "for the same bits: trainer.threads=1" in printed
    assert json.loads((folder / "run/run.json").read_text())["hardware"]["threads"] == 2
    unfinish(folder / "run", "step-0000006")  # with two threads
    ended = command("trainer.steps=6", "trainer.threads=1")
    assert ended.code == 0, ended.err
    assert "threads 1 (was 2)" in ended.out


@pytest.mark.parametrize("given", nightly_but(["4"], ["2", "4", None]))
def test_the_configured_threads_decide_the_bits_whatever_the_surroundings(
    folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    for library in ("OMP", "MKL"):
        name = f"{library}_NUM_THREADS"
        monkeypatch.delenv(name) if given is None else monkeypatch.setenv(name, given)
    options = ("trainer.steps=6", "trainer.checkpoint_every=2", "trainer.threads=1")
    ended = subprocess.run(  # a new interpreter, since libraries read them when imported
        [sys.executable, "-m", "tdro_lightning", *TDRO, *options], cwd=folder, timeout=200,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert_same_results(folder / "run", whole)


def test_what_a_finished_run_left_is_not_read_as_the_next_one_s(
    command, folder: Path, whole: Path, capfd
) -> None:
    """It is kept aside, and an unfinished run has no results."""
    shutil.copytree(whole, folder / "run")
    before = (folder / "run/weights.json").read_bytes()
    ended = command("trainer.steps=6", "trainer.max_hours=1e-9")
    assert ended.code == 0, ended.err
    assert not (folder / "run/weights.json").exists()
    assert (folder / "run/previous/weights.json").read_bytes() == before
    (folder / "run/weights.json").write_bytes(before)
    ended = run(
        capfd, folder, "--config-dir=conf", "+experiment=finetune_top70", "domains=made",
        "model.path=model", "transfer.weights=run/weights.json", "run_dir=tuned",
    )  # fmt: skip
    assert ended.code == 3
    assert "run/weights.json: its run is not finished (status: time_limit)" in ended.err
