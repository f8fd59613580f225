"""Small file operations shared by all stages: atomic writes and content fingerprints."""

import hashlib
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tdro_lightning.errors import DataError, InputError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name once it is on the disk, when the block ends without an error.

    A reader sees the old or the new content, never a part of it.

    Raises:
        InputError: a folder has the file's name.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder is in the place of this file; remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file with `whole_file`."""
    with whole_file(path) as stream:
        stream.write(text.encode())


def remove_orphans(folder: Path) -> None:
    """Remove what killed writers have left in a folder; nobody else may be writing there."""
    for orphan in filter(Path.is_file, folder.glob(".*.tmp")):
        orphan.unlink()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends without an error.

    A reader finds no folder of that name before, whatever happens, so one from an earlier time is
    removed first. What a killed process has left is removed too.
    """
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    remove_path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            sync(written)
        temporary.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_path(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with `write_text`; NaN and infinity are refused, since JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, largest: int | None = None) -> Any:
    """Read a JSON file, strictly: as in `parse_json`.

    Args:
        path: the file.
        largest: bytes that it may have; None for any number.

    Raises:
        DataError: the file is missing, cannot be read, is too large or is not JSON.
    """
    with explain_read_errors(path, "a JSON file"):
        size = path.stat().st_size
        if largest is not None and size > largest:
            raise DataError(f"{path}: has {size} bytes; such a file has {largest} at most")
        content = path.read_bytes()
    try:
        return parse_json(content.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None


@contextmanager
def explain_read_errors(path: Path, expected: str) -> Iterator[None]:
    """Turn system errors of a block that reads a file into a DataError.

    Raises:
        DataError: it is missing, is a folder instead of what is expected, or cannot be read.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, expected {expected}") from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read it") from None


class DuplicateKeyError(ValueError):
    """A JSON object has a duplicate key; JSON readers differ in which value they take."""


def parse_json(text: str) -> Any:
    """Parse JSON, without what Python adds to it or leaves open.

    Raises:
        DuplicateKeyError: an object has a duplicate key.
        ValueError: not JSON, or NaN or infinity, which JSON does not have.
        RecursionError: nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise DuplicateKeyError(f"duplicate key {key!r}")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


GIGA = 10**9  # bytes of a GB
CHECKSUM = "sha256"  # key of a JSON object: of all its other keys, in their order


def write_checked_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of its own values, which `read_checked_json` looks at."""
    write_json(path, {**value, CHECKSUM: _checksum(value)})


def read_checked_json(path: Path) -> Any:
    """Read what `write_checked_json` wrote, or a JSON file that has no checksum as it is.

    Raises:
        DataError: the values were changed after they were written, or as in `read_json`.
    """
    value = read_json(path)
    require_checksum(path, value)
    return value


def require_checksum(path: Path, value: Any) -> bool:
    """Compare a JSON object with its checksum; returns whether it has one.

    Raises:
        DataError: it was changed after it was written.
    """
    if not isinstance(value, dict) or CHECKSUM not in value:
        return False
    if value[CHECKSUM] != _checksum(value):
        raise DataError(
            f"{path}: was changed after it was written, as its `{CHECKSUM}` says; restore it, or "
            f"take `{CHECKSUM}` out if the change is yours"
        )
    return True


def _checksum(value: Mapping[str, Any]) -> str:
    covered = {key: content for key, content in value.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(covered, ensure_ascii=False).encode()).hexdigest()


def slug(name: str) -> str:
    """A name as part of a file name: letters, digits, `.`, `_` and `-` stay; others become `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of all files below a folder.

    Raises:
        DataError: there is no such file or folder, or no permission to read it.
    """
    if path.is_file():
        return _file_digest(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{fingerprint(file)}\n".encode())
    return digest.hexdigest()


SETTLED = 2.0  # seconds; file systems have coarse clocks, and a change within one tick is not seen
_digests: dict[tuple[int, ...], str] = {}  # by device, inode, size and times


def settled_state(path: Path) -> tuple[int, ...] | None:
    """What changes with a file's content: device, inode, size and times.

    Returns:
        None for a file that is missing, or so new that a later change might not be seen by it.
    """
    try:
        known = path.stat()
    except OSError:
        return None
    return _state(known) if _is_settled(known) else None


def _file_digest(path: Path) -> str:
    """SHA-256 of a file; one that has not changed since is not read again by this process."""
    with explain_read_errors(path, "a file"), path.open("rb") as stream:
        known = os.fstat(stream.fileno())
        key = _state(known)
        if key not in _digests:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if not _is_settled(known):
                return digest
            _digests[key] = digest
    return _digests[key]


def _state(known: os.stat_result) -> tuple[int, ...]:
    times = (known.st_mtime_ns, known.st_ctime_ns)
    return (known.st_dev, known.st_ino, known.st_size, *times)


def _is_settled(known: os.stat_result) -> bool:
    return time.time() - max(known.st_mtime, known.st_ctime) >= SETTLED
