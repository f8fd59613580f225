"""Checkpoints on disk: whole or not at all, and damage is seen whatever it is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tdro_lightning.checkpoint import (
    MANIFEST,
    STATE,
    checkpoint_path,
    checkpoints,
    newest_valid,
    read_checkpoint,
    write_checkpoint,
)
from tdro_lightning.errors import CheckpointError, ResourceError


def state(step: int) -> dict[str, Any]:
    return {"weights": torch.full((1000,), float(step)), "step": step, "run": {"seed": 7}}


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        write_checkpoint(checkpoint_path(folder, step), state(step))


def assert_holds(path: Path | None, step: int) -> None:
    assert path is not None
    assert path.name == f"step-{step:07d}"
    found = read_checkpoint(path)
    assert found["step"] == step
    assert torch.equal(found["weights"], state(step)["weights"])


def test_the_newest_two_are_kept_whole(tmp_path: Path) -> None:
    write(tmp_path, 9, 10, 100)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-0000010", "step-0000100"]
    assert_holds(newest_valid(tmp_path), 100)
    content = json.loads((tmp_path / "step-0000100" / MANIFEST).read_text())
    assert content["step"] == 100
    assert content["run"] == {"seed": 7}
    assert len(content["sha256"]) == 64
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert names == [f"step-{s}/{f}" for s in ("0000010", "0000100") for f in (MANIFEST, STATE)]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def change(path: Path, **values: Any) -> None:
    content = json.loads((path / MANIFEST).read_text()) | values
    (path / MANIFEST).write_text(json.dumps(content))


def linked(path: Path) -> None:
    (path / STATE).rename(path / "other")
    (path / STATE).symlink_to(path / "other")


DAMAGE = {
    "flipped bit": (lambda p: flip(p / STATE, 3000), "SHA-256 of state.pt is not that of"),
    "flipped bit in the manifest": (
        lambda p: (p / MANIFEST).write_text((p / MANIFEST).read_text().replace('"sha', '"sha"')),
        "not valid JSON",
    ),
    "truncated": (lambda p: os.truncate(p / STATE, 100), "has 100 bytes instead of"),
    "emptied": (lambda p: (p / STATE).write_bytes(b""), "has 0 bytes instead of"),
    "garbage": (lambda p: (p / STATE).write_bytes(b"x" * 9999), "has 9999 bytes instead of"),
    "no state": (lambda p: (p / STATE).unlink(), "state.pt is missing"),
    "no manifest": (lambda p: (p / MANIFEST).unlink(), "manifest.json: no such file"),
    "empty folder": (lambda p: [f.unlink() for f in p.iterdir()], "manifest.json: no such file"),
    "a link": (linked, "state.pt is missing"),
    "another step's": (lambda p: change(p, step=5), "is of step 5"),
    "another version's": (lambda p: change(p, format=2), "has format 2; this version reads 1"),
    "no checksum": (
        lambda p: (p / MANIFEST).write_text('{"step": 20, "format": 1}'),
        "is incomplete",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_one_is_passed_over_and_named(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 10, 20)
    damage, message = DAMAGE[kind]
    damage(tmp_path / "step-0000020")
    assert_holds(newest_valid(tmp_path), 10)
    assert "step-0000020" in caplog.text
    assert message in caplog.text
    shutil.rmtree(tmp_path / "step-0000010")
    with pytest.raises(CheckpointError, match="no usable checkpoint: .*step-0000020: ") as raised:
        newest_valid(tmp_path)
    assert message in str(raised.value)
    assert raised.value.code == 5
    write(tmp_path, 20)  # the run comes by again
    assert_holds(newest_valid(tmp_path), 20)


def test_the_step_in_its_name_says_which_is_newest(tmp_path: Path) -> None:
    write(tmp_path, 30, 40)
    now = (tmp_path / "step-0000040").stat().st_mtime
    os.utime(tmp_path / "step-0000030", (now + 100, now + 100))
    assert_holds(newest_valid(tmp_path), 40)


def test_nothing_yet_is_no_fault(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "none") is None
    (tmp_path / "notes.txt").touch()
    (tmp_path / "step-last").mkdir()
    assert newest_valid(tmp_path) is None


class Payload:
    """Pickled code, as a malicious checkpoint holds it."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.canary}",))


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    write_checkpoint(tmp_path / "step-0000001", {"run": {}, "code": Payload(canary)})
    path = newest_valid(tmp_path)
    assert path is not None
    with pytest.raises(Exception, match="Weights only load failed"):
        read_checkpoint(path)
    assert not canary.exists()


# Kills the process at the n-th of the calls that put something on the disk.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tdro_lightning import checkpoint, files
from tests.test_checkpoint import state
calls = 0
def counted(function):
    def call(*args, **kwargs):
        global calls
        for before in (True, False):
            calls += 1
            if calls == {at}:
                os.kill(os.getpid(), signal.SIGKILL)
            if before:
                result = function(*args, **kwargs)
        return result
    return call
os.fsync = counted(os.fsync)
os.replace = counted(os.replace)
Path.mkdir = counted(Path.mkdir)
Path.rename = counted(Path.rename)
shutil.rmtree = counted(shutil.rmtree)
checkpoint.torch.save = counted(checkpoint.torch.save)
checkpoint.write_checkpoint(Path({folder!r}) / "step-0000030", state(30))
print("whole", calls)
"""


def test_a_kill_at_any_moment_of_a_save_leaves_valid_ones(tmp_path: Path) -> None:
    """Before and after each call that changes the disk."""
    root = str(Path(__file__).parents[1])
    found = []
    for at in range(1, 30):
        folder = tmp_path / str(at)
        write(folder, 10, 20)
        code = KILLED.format(root=root, at=at, folder=str(folder))
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        newest = newest_valid(folder)
        assert newest is not None
        assert_holds(newest, int(newest.name[-7:]))
        found.append(newest.name)
        assert not list(folder.glob(".*")), "orphans"
        if "whole" in ended.stdout:
            break
        assert ended.returncode == -9, ended.stderr
    assert set(found) == {"step-0000020", "step-0000030"}
    assert len(found) > 15
    assert found == sorted(found)  # once it is there, it stays


@pytest.mark.parametrize("bytes_free", [0, 3000])
def test_a_full_disk_leaves_the_earlier_ones(tmp_path: Path, bytes_free: int) -> None:
    """A limit on the size of files stands for the disk's end."""
    write(tmp_path, 10, 20)
    code = (
        f"import resource, signal, sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from tdro_lightning.checkpoint import write_checkpoint\n"
        "from tests.test_checkpoint import state\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_free}, {bytes_free}))\n"
        "from tdro_lightning.errors import ResourceError\n"
        "try:\n"
        f"    write_checkpoint(Path({str(tmp_path)!r}) / 'step-0000030', state(30))\n"
        "except ResourceError as error:\n"
        "    sys.stderr.write(str(error)); sys.exit(error.code)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 6, ended.stderr
    assert "step-0000030: the checkpoint cannot be written" in ended.stderr
    assert "earlier checkpoints are untouched" in ended.stderr
    assert_holds(newest_valid(tmp_path), 20)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000010", "step-0000020"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot be written"):
        write_checkpoint(tmp_path / "file" / "step-0000001", state(1))
