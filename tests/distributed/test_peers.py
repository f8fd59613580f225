"""Two real processes of which one meets a fault: all end soon, and the message names which."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import free_port, run
from tests.nightly import nightly_but
from tests.training.test_strategies import ARGUMENTS, SPREAD
from tests.warm import FAILED, Warm

SOON = 60.0  # seconds after the fault on a busy machine; a collective alone would wait ten minutes
FAULTY = str(Path(__file__).parents[1] / "faulty.py")


@pytest.fixture(scope="module")
def warm(shared: Path) -> Iterator[Warm]:
    with Warm(shared) as started:
        yield started


def ranks(warm: Warm, run_dir: str, *own: str, **environment: str) -> list[int]:
    """Start two processes of a run, as a launcher would, though none looks after them."""
    port = str(free_port())
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    arguments = [*ARGUMENTS, *SPREAD, f"run_dir={run_dir}", *own]
    return [
        warm.start(
            arguments, f"{run_dir}-{rank}.txt", RANK=str(rank), LOCAL_RANK=str(rank),
            **there, **sizes, **environment,
        )
        for rank in range(2)
    ]  # fmt: skip


def printed(folder: Path, run_dir: str) -> list[str]:
    return [(folder / f"{run_dir}-{rank}.txt").read_text() for rank in range(2)]


def fault(text: str) -> float:
    """When the fault came, by `time.monotonic`."""
    return float(re.findall(r"fault met at ([\d.]+)", text)[-1])


def status(folder: Path, run_dir: str) -> str:
    return str(json.loads((folder / run_dir / "run.json").read_text())["status"])


def test_a_rank_that_raises_ends_both_with_its_name(warm: Warm, shared: Path) -> None:
    found = [warm.wait(rank) for rank in ranks(warm, "raised", FAULT="1:2:raise")]
    assert [code for code, _ in found] == [1, FAILED]
    first, second = printed(shared, "raised")
    assert max(ended for _, ended in found) - fault(second) < SOON
    assert "error: rank 1 failed, which ends all ranks" in second
    assert "RuntimeError: the device is gone" in (shared / "raised/rank-1.log").read_text()
    assert "error: rank 0: rank 1 failed: RuntimeError: the device is gone" in first
    assert "Traceback" not in first
    assert status(shared, "raised") == "failed"
    assert not (shared / "raised/weights.json").exists()


def test_a_rank_that_hangs_ends_both_and_says_where(warm: Warm, shared: Path) -> None:
    found = [warm.wait(rank) for rank in ranks(warm, "hung", FAULT="1:2:hang", FAULT_TIMEOUT="2")]
    assert [code for code, _ in found] == [1, 1]
    first, second = printed(shared, "hung")
    assert max(ended for _, ended in found) - fault(second) < SOON
    assert "Timed out waiting 2000ms" in first
    assert f"it hangs at {FAULTY}" in second
    assert ", in met" in second
    assert "faulty_update" in (shared / "hung/rank-1.log").read_text()  # the stack
    assert status(shared, "hung") == "failed"


def test_a_rank_that_is_killed_ends_the_other(warm: Warm, shared: Path) -> None:
    found = [warm.wait(rank) for rank in ranks(warm, "killed", FAULT="1:2:kill")]
    assert [code for code, _ in found] == [1, -signal.SIGKILL]
    first, second = printed(shared, "killed")
    assert found[0][1] - fault(second) < SOON
    assert "error: rank 0: it lost another process (" in first


def test_a_loss_of_one_rank_stops_both_before_any_update(warm: Warm, shared: Path) -> None:
    found = [warm.wait(rank) for rank in ranks(warm, "nan", FAULT="1:2:nan")]
    assert [code for code, _ in found] == [4, 4]
    first, second = printed(shared, "nan")
    assert "first rows: on another rank" in first
    assert "reference losses of rank 1 are not finite" in second
    (path,) = (shared / "nan/diagnostics").iterdir()
    assert path.name == "nonfinite-step-2-rank-1.json"
    rows = json.loads(path.read_text())
    assert {row["domain"] for row in rows} == {"easy", "middle", "hard"}
    assert all(row["query_id"].startswith(row["domain"]) for row in rows)
    assert not (shared / "nan/checkpoints").exists()


def test_what_the_first_rank_refuses_ends_the_other_with_its_code(warm: Warm, shared) -> None:
    found = [warm.wait(rank) for rank in ranks(warm, "refused", "trainer.resume=must")]
    assert [code for code, _ in found] == [5, 5]
    first, second = printed(shared, "refused")
    assert "error: rank 0: refused/checkpoints holds no checkpoint" in first
    assert "rank 0 failed: CheckpointError: refused/checkpoints holds no checkpoint" in second
    ended = json.loads((shared / "refused/status.json").read_text())
    assert (ended["exit_code"], ended["reason"]) == (5, first.partition("rank 0: ")[2].strip())


@pytest.mark.parametrize(
    "sent", nightly_but(["1:1:stop"], ["0:1:stop", "1:1:stop", "0,1:1:stop", "0,1:1:stop2"])
)
def test_sigterm_to_any_rank_saves_once(warm: Warm, shared: Path, sent: str) -> None:
    run_dir = sent.replace(":", "-").replace(",", "")
    found = [warm.wait(rank) for rank in ranks(warm, run_dir, FAULT=sent)]
    assert [code for code, _ in found] == [143, 143]
    first, second = printed(shared, run_dir)
    assert max(ended for _, ended in found) - fault(first + second) < SOON
    assert first.count("stopped by SIGTERM after step 2 of 4") == 1
    assert "Traceback" not in first + second
    assert [p.name for p in (shared / run_dir / "checkpoints").iterdir()] == ["step-0000002"]
    assert status(shared, run_dir) == "stopped"


def test_a_run_goes_on_with_another_number_of_processes(
    warm: Warm, shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From one to two, from two to one, and where they do not divide the batch."""
    alone = run(capfd, shared, *ARGUMENTS, "run_dir=one-alone")
    assert alone.code == 0, alone.err
    first = run(capfd, shared, *ARGUMENTS, "run_dir=one-two", "trainer.max_hours=1e-9")
    assert "stopped by its time limit after step 1 of 4" in first.err
    assert [warm.wait(rank)[0] for rank in ranks(warm, "one-two")] == [0, 0]
    assert [warm.wait(rank)[0] for rank in ranks(warm, "two-one", FAULT="1:1:stop")] == [143, 143]
    then = run(capfd, shared, *ARGUMENTS, "run_dir=two-one")
    assert then.code == 0, then.err
    weights = [
        json.loads((shared / d / "weights.json").read_text())["domain_weights"]
        for d in ("one-alone", "one-two", "two-one")
    ]
    assert weights[1] == pytest.approx(weights[0], abs=1e-5)
    assert weights[2] == pytest.approx(weights[0], abs=1e-5)
    losses = [curve(shared / d / "history.csv") for d in ("one-alone", "one-two", "two-one")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
    found = [warm.wait(r)[0] for r in ranks(warm, "one-three", "data.batch_size=7")]
    assert found == [2, 2]
    assert (
        "data.batch_size=7 must be a multiple of the trainer.devices=2"
        in printed(shared, "one-three")[0]
    )


def curve(history: Path) -> dict[int, float]:
    lines = [line.split(",") for line in history.read_text(encoding="utf-8").splitlines()]
    return {int(step): float(value) for step, metric, value in lines[1:] if metric == "loss"}


def test_ranks_without_their_launcher_save_and_end(shared: Path) -> None:
    with Warm(shared) as launcher:
        started = ranks(launcher, "orphans", "trainer.steps=100000")
        wait_for(shared / "orphans/history.csv", "\n2,")
    began = time.monotonic()
    while any(Path(f"/proc/{process}").exists() for process in started):
        assert time.monotonic() - began < SOON
        time.sleep(0.05)
    first, second = printed(shared, "orphans")
    # The first that sees it stops both, perhaps before the other looks.
    assert "its launcher has gone, so it stops" in first + second
    assert "stopped by SIGTERM after step" in first
    assert len(list((shared / "orphans/checkpoints").iterdir())) == 1
    assert status(shared, "orphans") == "stopped"


def wait_for(path: Path, text: str, seconds: float = 120.0) -> None:
    """Wait until a file holds a text."""
    began = time.monotonic()
    while not (path.is_file() and text in path.read_text(encoding="utf-8")):
        assert time.monotonic() - began < seconds
        time.sleep(0.02)


def launched(folder: Path, launcher: str, *own: str, **environment: str) -> subprocess.Popen[str]:
    """A run under a launcher, in a session of its own."""
    command = [sys.executable, "-m", launcher, "--standalone", "--nproc-per-node=2", FAULTY]
    return subprocess.Popen(
        [*command, *ARGUMENTS, *SPREAD, *own], cwd=folder, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
    )  # fmt: skip


def orphans(session: int) -> list[int]:
    """Processes of a session that are left."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.name))
    return found


OURS, TORCHRUN = "tdro_lightning.distributed.launcher", "torch.distributed.run"


@pytest.mark.parametrize(
    ("launcher", "code"),
    nightly_but([(OURS, 143)], [(OURS, 143), (TORCHRUN, 1)]),
)
def test_sigterm_to_the_launcher_saves_and_the_same_command_goes_on(
    shared: Path, warm: Warm, launcher: str, code: int
) -> None:
    own = (f"run_dir=sent-{code}", "trainer.steps=60")
    process = launched(shared, launcher, *own)
    wait_for(shared / f"sent-{code}/history.csv", "\n2,")
    began = time.monotonic()
    process.terminate()
    output, _ = process.communicate(timeout=100)
    assert time.monotonic() - began < SOON
    assert process.returncode == code, output
    assert output.count("stopped by SIGTERM after step") == 1
    assert orphans(process.pid) == []
    again = [warm.wait(r) for r in ranks(warm, f"sent-{code}", "trainer.steps=60")]
    assert [code for code, _ in again] == [0, 0], printed(shared, f"sent-{code}")
    alone = [warm.wait(r) for r in ranks(warm, f"alone-{code}", "trainer.steps=60")]
    assert [code for code, _ in alone] == [0, 0]
    ours, theirs = ((shared / f"{d}-{code}/weights.json").read_text() for d in ("sent", "alone"))
    assert ours == theirs


ENDS = [
    ("kill", 137, "error: rank 1 was killed by SIGKILL"),
    ("raise", 1, "error: rank 1 failed"),
    ("hang", 1, f"it hangs at {FAULTY}"),
    ("nan", 4, "losses of rank 1 are not finite"),
]


@pytest.mark.parametrize(
    ("kind", "code", "named"),
    nightly_but(ENDS[:1], ENDS),
)
def test_the_launcher_ends_with_the_code_of_what_failed(
    shared: Path, kind: str, code: int, named: str
) -> None:
    process = launched(
        shared, OURS, f"run_dir=under-{kind}", FAULT=f"1:1:{kind}", FAULT_TIMEOUT="4"
    )
    output, _ = process.communicate(timeout=200)
    if kind != "nan":
        assert time.monotonic() - fault(output) < SOON
    assert process.returncode == code, output
    assert named in output
    assert orphans(process.pid) == []
    # The run folder says the same as the command.
    ended = json.loads((shared / f"under-{kind}/status.json").read_text())
    assert (ended["status"], ended["exit_code"]) == ("failed", code)
    assert "rank 1" in ended["reason"] or kind in ("hang", "nan")
    assert "no fault of the input" not in ended["reason"] + ended["next"]


@pytest.mark.nightly
def test_a_command_that_is_killed_leaves_no_process(shared: Path) -> None:
    """The command that starts the launcher that starts the ranks."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tdro_lightning", *ARGUMENTS, *SPREAD, "run_dir=left",
         "trainer.steps=100000"],
        cwd=shared, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(shared / "left/history.csv", "\n2,")
    process.kill()
    process.wait()
    began = time.monotonic()
    while orphans(process.pid):
        assert time.monotonic() - began < SOON
        time.sleep(0.1)
    assert len(list((shared / "left/checkpoints").iterdir())) == 1
