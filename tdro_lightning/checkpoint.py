"""Checkpoints on disk: a folder a step, there as a whole or not at all.

`step-0000120/` holds `state.pt` (tensors and plain values) and `manifest.json` (the step, size and
SHA-256 of the state, and what the run depends on). It is written beside its place under a name that
starts with a dot, and renamed when all of it is on the disk; it is never written again.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tdro_lightning.errors import CheckpointError, DataError, ResourceError
from tdro_lightning.files import fingerprint, read_json, write_json

KEPT = 2
STATE, MANIFEST = "state.pt", "manifest.json"
FORMAT = 1  # of the manifest
RUN = "run"  # in a state: what the run depends on, which the manifest repeats

logger = logging.getLogger(__name__)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, then remove all but the newest ones beside it.

    Args:
        path: the checkpoint's folder, as `checkpoint_path` names it.
        state: tensors and plain values.

    Raises:
        ResourceError: the disk is full or cannot be written; earlier checkpoints are untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        with (temporary / STATE).open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        content = {
            "format": FORMAT,
            "step": step_of(path),
            "bytes": (temporary / STATE).stat().st_size,
            "sha256": fingerprint(temporary / STATE),
            RUN: state.get(RUN, {}),
        }
        write_json(temporary / MANIFEST, content)
        _sync(temporary)
        if path.exists():  # a damaged one of the same step
            _remove(path)
        temporary.rename(path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save tells of a full disk by RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(path.parent).free / 1e9 if path.parent.exists() else 0.0
        raise ResourceError(
            f"{path}: the checkpoint cannot be written ({str(error).splitlines()[0]}; "
            f"{free:.1f} GB are free there); earlier checkpoints are untouched"
        ) from None
    for old in checkpoints(path.parent)[:-KEPT]:
        _remove(old)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint; nothing in it is executed."""
    state: dict[str, Any] = torch.load(
        path / STATE, map_location="cpu", mmap=True, weights_only=True
    )
    return state


def newest_valid(folder: Path) -> Path | None:
    """The newest checkpoint whose state is the one that was written; None where there is none.

    Damaged ones are passed over with a warning. What ended writers have left is removed.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    for orphan in folder.glob(".*.tmp"):
        shutil.rmtree(orphan)
    damage: list[str] = []
    for path in reversed(checkpoints(folder)):
        found = damage_of(path)
        if found is None:
            return path
        damage.append(f"{path}: {found}")
        logger.warning("checkpoint passed over: %s", damage[-1])
    if damage:
        raise CheckpointError(f"no usable checkpoint: {'; '.join(damage)}")
    return None


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, None where nothing is."""
    state = path / STATE
    try:
        content = manifest(path)
    except DataError as error:
        return str(error)
    if state.is_symlink() or not state.is_file():
        return f"{STATE} is missing"
    size = state.stat().st_size
    if size != content["bytes"]:
        return f"{STATE} has {size} bytes instead of {content['bytes']}"
    if fingerprint(state) != content["sha256"]:
        return f"the SHA-256 of {STATE} is not that of the manifest"
    return None


def manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        DataError: it is missing, damaged, or of another version.
    """
    content = read_json(path / MANIFEST)
    if not isinstance(content, dict) or not {"step", "bytes", "sha256", RUN} <= content.keys():
        raise DataError(f"{MANIFEST} is incomplete")
    if content.get("format") != FORMAT:
        raise DataError(f"{MANIFEST} has format {content.get('format')!r}; this version reads 1")
    if content["step"] != step_of(path):
        raise DataError(f"{MANIFEST} is of step {content['step']}")
    return content


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:07d}"


def step_of(path: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(path.name.removeprefix("step-"))


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a folder, damaged or not, by step."""
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name)]
    return sorted(found, key=step_of)


def _remove(path: Path) -> None:
    """Remove a checkpoint; half removed, it is none."""
    leaving = path.with_name(f".{path.name}.removed.{os.getpid()}.tmp")
    path.rename(leaving)
    shutil.rmtree(leaving)


def _sync(folder: Path) -> None:
    with _opened(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
