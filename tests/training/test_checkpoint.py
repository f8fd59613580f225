"""Checkpoints on disk: whole or not at all, and damage is seen whatever it is."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tdro_lightning.errors import CheckpointError, ResourceError
from tdro_lightning.files import fingerprint
from tdro_lightning.training.checkpoint import (
    MANIFEST,
    STATE,
    checkpoint_path,
    checkpoints,
    newest_valid,
    read_checkpoint,
    write_checkpoint,
)


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
    "a folder that is a link": (
        lambda p: p.symlink_to(p.rename(p.with_name("elsewhere"))),
        "it is a link to elsewhere",
    ),
    "a manifest that is a link": (
        lambda p: (p / MANIFEST).symlink_to((p / MANIFEST).rename(p / "other")),
        "it is a link to elsewhere",
    ),
    "another size declared": (lambda p: change(p, bytes=10**10), "instead of 10000000000"),
    "a path in the manifest": (lambda p: change(p, step="../../x"), "is of step ../../x"),
    "no number": (lambda p: change(p, bytes=None), "bytes instead of None"),
    "a list": (lambda p: (p / MANIFEST).write_text("[]"), "is incomplete"),
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

    def __init__(self, function: Any, *arguments: str) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


def nested(canary: Path) -> Any:
    """A whole state as bytes inside a state, for a reader that unpacks further."""
    inside = io.BytesIO()
    torch.save(Payload(os.system, f"touch {canary}"), inside)
    return Payload(torch.load, inside.getvalue())  # type: ignore[arg-type]


MALICIOUS: dict[str, Any] = {
    "a shell command": lambda canary: Payload(os.system, f"touch {canary}"),
    "evaluated code": lambda canary: Payload(eval, f"open({str(canary)!r}, 'w')"),
    "a state in a state": nested,
    "a class by name": lambda canary: Payload(subprocess.Popen, f"touch {canary}"),
    "a configuration object": lambda canary: OmegaConf.create({"x": str(canary)}),
}


@pytest.mark.parametrize("kind", MALICIOUS)
def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    content = {"run": {}, "code": MALICIOUS[kind](canary)}
    write_checkpoint(tmp_path / "step-0000001", content)
    path = newest_valid(tmp_path)
    assert path is not None
    with pytest.raises(CheckpointError, match=r"step-0000001/state.pt is not loaded: .*nsupported"):
        read_checkpoint(path)
    assert not canary.exists()


def test_nothing_in_a_checkpoint_is_unpacked(tmp_path: Path) -> None:
    """A few kilobytes that would become gigabytes."""
    write(tmp_path, 10)
    path = tmp_path / "step-0000010"
    with zipfile.ZipFile(path / STATE) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path / STATE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    change(path, bytes=(path / STATE).stat().st_size, sha256=fingerprint(path / STATE))
    assert newest_valid(tmp_path) == path
    with pytest.raises(CheckpointError, match="is compressed, as no checkpoint of ours is"):
        read_checkpoint(path)


def test_a_checkpoint_of_this_format_stays_readable() -> None:
    """Written by version 0.1.0; a version that reads it no longer must say so."""
    folder = Path(__file__).parents[1] / "golden"
    path = newest_valid(folder)
    assert path is not None
    found = read_checkpoint(path)
    assert found["global_step"] == 20
    assert torch.equal(found["state_dict"]["proxy.weight"], torch.arange(6.0).view(2, 3))
    assert found["domain_weights"]["names"] == ["easy", "hard"]


def test_later_steps_that_were_passed_over_do_not_push_new_ones_out(tmp_path: Path) -> None:
    write(tmp_path, 10, 20)
    write_checkpoint(checkpoint_path(tmp_path, 30), state(30))
    for step in (20, 30):
        os.truncate(checkpoint_path(tmp_path, step) / STATE, 9)
    write(tmp_path, 12, 14)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-0000012", "step-0000014"]


@pytest.mark.parametrize("call", ["rename", "rmtree"])
def test_an_old_one_that_cannot_be_removed_ends_no_run(
    tmp_path: Path, call: str, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 10, 20)
    rename, rmtree = Path.rename, shutil.rmtree

    def failing(path: Any, *given: Any, **named: Any) -> Any:
        if "step-0000010" in str(path):
            raise OSError(errno.ESTALE, "Stale file handle")
        return rename(path, *given) if call == "rename" else rmtree(path, *given, **named)

    if call == "rename":
        monkeypatch.setattr(Path, "rename", failing)
    else:
        monkeypatch.setattr(shutil, "rmtree", failing)
    write(tmp_path, 30)
    assert "step-0000010: the old checkpoint cannot be removed" in caplog.text
    monkeypatch.undo()
    assert_holds(newest_valid(tmp_path), 30)
    write(tmp_path, 40)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000030", "step-0000040"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename", "replace"])
def test_an_error_of_the_disk_saves_nothing_and_says_so(
    tmp_path: Path, call: str, code: int, monkeypatch
) -> None:
    """As the state, the manifest, or the last name is written."""
    write(tmp_path, 10, 20)

    def failing(*given: Any, **named: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os if call in ("fsync", "replace") else Path, call, failing)
    with pytest.raises(ResourceError, match=os.strerror(code)) as raised:
        write(tmp_path, 30)
    assert raised.value.code == 6
    monkeypatch.undo()
    assert_holds(newest_valid(tmp_path), 20)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000010", "step-0000020"]


# For each call that puts something on the disk, a process that is killed there, until one is not.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tdro_lightning.training import checkpoint
from tests.training.test_checkpoint import state, write
calls = at = 0
def counted(function):
    def call(*args, **kwargs):
        global calls
        for before in (True, False):
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            if before:
                result = function(*args, **kwargs)
        return result
    return call
code = -signal.SIGKILL
while code == -signal.SIGKILL:
    at += 1
    folder = Path({folder!r}, str(at))
    write(folder, 10, 20)
    process = os.fork()
    if process == 0:
        os.fsync = counted(os.fsync)
        os.replace = counted(os.replace)
        Path.mkdir = counted(Path.mkdir)
        Path.rename = counted(Path.rename)
        shutil.rmtree = counted(shutil.rmtree)
        checkpoint.torch.save = counted(checkpoint.torch.save)
        checkpoint.write_checkpoint(folder / "step-0000030", state(30))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
assert code == 0, code
"""


def test_a_kill_at_any_moment_of_a_save_leaves_valid_ones(tmp_path: Path) -> None:
    """Before and after each call that changes the disk."""
    code = KILLED.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = []
    for at in range(1, 1 + len(list(tmp_path.iterdir()))):
        newest = newest_valid(tmp_path / str(at))
        assert newest is not None
        assert_holds(newest, int(newest.name[-7:]))
        found.append(newest.name)
        assert not list((tmp_path / str(at)).glob(".*")), "orphans"
    assert set(found) == {"step-0000020", "step-0000030"}
    assert len(found) > 15
    assert found == sorted(found)  # once it is there, it stays


@pytest.mark.parametrize("bytes_free", [0, 3000])
def test_a_full_disk_leaves_the_earlier_ones(tmp_path: Path, bytes_free: int) -> None:
    """A limit on the size of files stands for the disk's end."""
    write(tmp_path, 10, 20)
    code = (
        f"import resource, signal, sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path\n"
        "from tdro_lightning.training.checkpoint import write_checkpoint\n"
        "from tests.training.test_checkpoint import state\n"
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
