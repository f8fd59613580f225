"""Checkpoints on disk: a folder a step, there as a whole or not at all.

`step-0000120/` holds `state.pt` (tensors and plain values) and `manifest.json` (the step, size and
SHA-256 of the state, and what the run depends on). It is written beside its place, and renamed when
all of it is on the disk; it is never written again.
"""

import logging
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from tdro_lightning.errors import CheckpointError, DataError, ResourceError
from tdro_lightning.files import fingerprint, read_json, remove_path, whole_folder, write_json

KEPT = 2
STATE, MANIFEST = "state.pt", "manifest.json"
FORMAT = 1  # of the manifest
RUN = "run"  # in a state: what the run depends on, which the manifest repeats

logger = logging.getLogger(__name__)


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, then remove those beside it but the one before.

    Later steps' are removed too: a run that comes by again passed them over as damaged.

    Args:
        path: the checkpoint's folder, as `checkpoint_path` names it.
        state: tensors and plain values.

    Raises:
        ResourceError: the disk is full or cannot be written; earlier checkpoints are untouched.
    """
    try:
        if path.exists():  # a damaged one of the same step
            remove_checkpoint(path)
        with whole_folder(path) as folder:
            with (folder / STATE).open("wb") as stream:
                torch.save(state, stream)
            content = {
                "format": FORMAT,
                "step": step_of(path),
                "bytes": (folder / STATE).stat().st_size,
                "sha256": fingerprint(folder / STATE),
                RUN: state.get(RUN, {}),
            }
            write_json(folder / MANIFEST, content)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        free = shutil.disk_usage(path.parent).free / 1e9 if path.parent.exists() else 0.0
        raise ResourceError(
            f"{path}: the checkpoint cannot be written ({str(error).splitlines()[0]}; "
            f"{free:.1f} GB are free there); earlier checkpoints are untouched"
        ) from None
    beside = checkpoints(path.parent)
    place = beside.index(path)
    for other in (*beside[: max(0, place + 1 - KEPT)], *beside[place + 1 :]):
        remove_checkpoint(other)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint; nothing in it is executed, and nothing in it is unpacked.

    Raises:
        CheckpointError: it holds something else than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path / STATE) as archive:
            packed = [e.filename for e in archive.infolist() if e.compress_type]
        if packed:  # a few bytes could fill the memory
            raise pickle.UnpicklingError(f"{packed[0]} is compressed, as no checkpoint of ours is")
        state: dict[str, Any] = torch.load(
            path / STATE, map_location="cpu", mmap=True, weights_only=True
        )
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError) as error:
        reason = re.search(r"(?i)unsupported .*", str(error)) or re.match(r".*", str(error))
        raise CheckpointError(
            f"{path / STATE} is not loaded: it holds something else than tensors and plain values "
            f"({reason[0] if reason else error}). If the run did not write that itself, remove it"
        ) from None
    return state


def newest_valid(folder: Path) -> Path | None:
    """The newest checkpoint whose state is the one that was written; None where there is none.

    Damaged ones are passed over with a warning. What ended writers have left is removed.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    for orphan in folder.glob(".*.tmp"):
        shutil.rmtree(orphan, ignore_errors=True)
    damaged: list[str] = []
    for path in reversed(checkpoints(folder)):
        damage = damage_of(path)
        if damage is None:
            return path
        damaged.append(f"{path}: {damage}")
        logger.warning("checkpoint passed over: %s", damaged[-1])
    if damaged:
        raise CheckpointError(f"no usable checkpoint: {'; '.join(damaged)}")
    return None


def require_room(folder: Path, size: int) -> None:
    """Refuse a run whose checkpoints would not fit, before its first step.

    Args:
        folder: of the checkpoints; it may not be there yet.
        size: bytes of one.

    Raises:
        ResourceError: the disk has not enough bytes left.
    """
    place = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    needed = max(1, KEPT + 1 - len(checkpoints(folder))) * size  # one is written beside those kept
    if free < needed:
        raise ResourceError(
            f"{folder}: checkpoints need {needed / 1e9:.3f} GB, {free / 1e9:.3f} GB are free "
            "there; make room or choose another run_dir"
        )


def damage_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, None where nothing is."""
    state = path / STATE
    if path.is_symlink() or (path / MANIFEST).is_symlink():
        return "it is a link to elsewhere"
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
    folders = (p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name))
    return sorted(folders, key=step_of)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint; half removed, it is none. One that cannot be removed ends no run."""
    leaving = path.with_name(f".{path.name}.removed.{os.getpid()}.tmp")
    try:
        path.rename(leaving)
        remove_path(leaving)
    except OSError as error:
        logger.warning("%s: the old checkpoint cannot be removed (%s)", path, error)
