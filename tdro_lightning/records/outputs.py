"""The files that a run has written, with size and SHA-256; whoever reads one checks it first."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint, read_checked_json, remove_path

RECORD = "run.json"
STATUS = "status.json"
PREVIOUS = "previous"  # folder in a run's: the results of the finished run before
RESULTS_FORMAT = 1  # changes when what a stage writes changes its meaning, not with every release
# Names of results where a record does not list them: it is of version 0.1.0.
RESULTS = (
    *("train", "eval", "manifest.json", "dropped", "conf", "domains", "mining.json"),
    *("decontamination.json", "decontamination.md", "validation.json", "validation.md"),
    *("quarantine.jsonl", "model", "encoder", "weights.json", "mixture.json", "data_usage.json"),
    *("history.csv", "metrics.json", "per_query", "diagnostics", "simulation.json"),
    *("simulation.md", "export"),
)
HISTORY = "history.csv"
BEST_STEP = "best_step.json"
SPARSE_VECTORS = "sparse_vectors.json"

logger = logging.getLogger(__name__)


def describe_outputs(folder: Path, names: Iterable[str]) -> dict[str, dict[str, int | str]]:
    """Size in bytes and SHA-256 of each file of a run's results, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": fingerprint(path),
        }
        for path in _files(folder, names)
    }


def clear_outputs(folder: Path, record: Mapping[str, Any], *, resume: bool) -> None:
    """Take the results of the run before out of a run folder, so that nobody reads them as new.

    Those of a finished run are kept in `previous/`, with its record; a later run replaces them.

    Args:
        folder: the run folder.
        record: what its `run.json` holds.
        resume: leave the history in place, since a training will continue it.
    """
    kept = folder / PREVIOUS
    results = [folder / name for name in _results(record) if (folder / name).exists()]
    if not results:
        return
    if record["status"] == "finished":
        remove_path(kept)
        kept.mkdir()
        shutil.copy2(folder / RECORD, kept / "record.json")  # another name: this is no run folder
    for path in results:
        stays = resume and path.name == HISTORY
        if record["status"] != "finished":
            if not stays:
                remove_path(path)
        elif stays:
            shutil.copy2(path, kept / path.name)
        else:
            path.rename(kept / path.name)


def require_intact(path: Path) -> bool:
    """Refuse a file or folder of a run that is not finished, or one that was changed after it.

    Returns:
        Whether there was something to check by: the path is among the results of a run that has
        recorded their SHA-256.

    Raises:
        DataError: names the file, and says how to get the right one.
    """
    owner = _run_of(path)
    if owner is None:
        return False
    folder, record = owner
    if record.get("status") != "finished":
        raise DataError(
            f"{path}: its run is not finished (status: {record.get('status')}). To finish it, give "
            f"its command again: {record.get('command')}"
        )
    place = path.resolve()
    changed = next(damaged_outputs(folder, record, place), None)
    if changed is not None:
        raise DataError(
            f"{changed}. Put back what the run wrote, or run it again ({record.get('command')}). "
            "To use changed files on purpose, copy them out of the run folder"
        )
    return isinstance(record.get("outputs"), dict)


def damaged_outputs(
    folder: Path, record: Mapping[str, Any], place: Path | None = None
) -> Iterator[str]:
    """What is wrong with the results of a finished run, one sentence a file.

    Args:
        folder: the run folder.
        record: what its `run.json` holds.
        place: only this file or folder; None for all.
    """
    outputs = record.get("outputs", [])
    if isinstance(outputs, list):  # names only: the record is of version 0.1.0
        gone = [n for n in outputs if n in RESULTS and not (folder / n).exists()]
        yield from (f"{folder / name} is missing" for name in gone)
        _report_unchecked(folder)
        return
    root = folder.resolve()
    within = place or root
    asked = {n: known for n, known in outputs.items() if (root / n).is_relative_to(within)}
    for name, known in asked.items():
        path = root / name
        if not path.is_file():
            yield f"{folder / name} is missing"
        elif path.stat().st_size != known["bytes"]:
            yield f"{folder / name} has {path.stat().st_size} bytes instead of {known['bytes']}"
        elif fingerprint(path) != known["sha256"]:
            yield f"{folder / name} has another SHA-256 than the record in {RECORD}"
    for path in _files(root, _results(record)):
        name = path.relative_to(root).as_posix()
        if name not in outputs and path.is_relative_to(within):
            yield f"{folder / name} was added after the run"


@cache
def _report_unchecked(folder: Path) -> None:
    """Say once a process that an old record has no checksums."""
    logger.warning("%s: its record has no checksums, so its files are not checked", folder)


def _run_of(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """The folder and record of the run among whose results a path is."""
    place = path.resolve()
    folder = next((f for f in (place, *place.parents) if (f / RECORD).is_file()), None)
    if folder is None:
        return None
    record = read_checked_json(folder / RECORD)
    if not isinstance(record, dict) or not {"stage", "status"} <= record.keys():
        return None  # another program's
    parts = place.relative_to(folder).parts
    return (folder, record) if not parts or parts[0] in _results(record) else None


def _results(record: Mapping[str, Any]) -> Sequence[str]:
    """Names of the files and folders in a run folder that are the run's results."""
    names: Sequence[str] = record.get("results", RESULTS)
    return names


def _files(folder: Path, names: Iterable[str]) -> list[Path]:
    files: list[Path] = []
    for path in (folder / name for name in names):
        files += path.rglob("*") if path.is_dir() else [path]
    return sorted(file for file in files if file.is_file() and not file.name.startswith("."))
