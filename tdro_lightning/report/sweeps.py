"""Sweeps as they were planned, and how each of their jobs ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdro_lightning.errors import DataError
from tdro_lightning.files import read_checked_json

SWEEP, JOB = "sweep.json", "job.json"


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        swept: the settings that differ between jobs, by key.
        folder: where it ran, None where it never began.
        status: `finished`, `failed`, `running` (or killed), `not started`.
        error: what it failed with.
        code: the exit code of that.
    """

    swept: Mapping[str, str]
    folder: Path | None
    status: str
    error: str = ""
    code: int | None = None


@dataclass(frozen=True)
class Sweep:
    """A folder of jobs, in the order in which they were planned."""

    folder: Path
    command: str
    jobs: tuple[Job, ...]

    @property
    def keys(self) -> list[str]:
        """The swept settings."""
        return list(dict.fromkeys(key for job in self.jobs for key in job.swept))


def read_sweeps(folders: Sequence[Path]) -> tuple[Sweep, ...]:
    """All sweeps in or below the folders.

    Raises:
        DataError: a file of a sweep is broken.
    """
    paths = {path.resolve(): path for folder in folders for path in folder.rglob(SWEEP)}
    return tuple(read_sweep(path) for _, path in sorted(paths.items()))


def read_sweep(path: Path) -> Sweep:
    """A sweep from its `sweep.json` and the `job.json` of its jobs.

    Raises:
        DataError: a file is broken.
    """
    record = _read_record(path)
    jobs = {}
    for place in sorted(path.parent.rglob(JOB)):
        job, swept = _read_record(place), swept_settings(place.parent)
        jobs[frozenset(swept.items())] = Job(
            swept, place.parent, str(job["status"]), job["error"] or "", job["code"]
        )
    planned = [_texts(job) for job in record["jobs"]]
    return Sweep(
        path.parent,
        str(record["command"]),
        tuple(
            jobs.get(frozenset(swept.items()), Job(swept, None, "not started")) for swept in planned
        ),
    )


def swept_settings(folder: Path) -> dict[str, str]:
    """The swept settings of the job that a run, or its chain, was; empty outside sweeps."""
    for place in (folder, folder.parent):
        if (place / JOB).is_file():
            return _texts(_read_record(place / JOB)["swept"])
    return {}


def sweep_folder(folder: Path) -> Path | None:
    """The folder of the sweep of which a run, or its chain, was a job; None outside sweeps."""
    for place in (folder, folder.parent):
        if (place / JOB).is_file():
            parents = place.resolve().parents
            return next((parent for parent in parents if (parent / SWEEP).is_file()), None)
    return None


def _texts(settings: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in settings.items()}


def _read_record(path: Path) -> dict[str, Any]:
    record = read_checked_json(path)
    keys = {"command", "jobs"} if path.name == SWEEP else {"swept", "status", "error", "code"}
    if not isinstance(record, dict) or not keys <= record.keys():
        raise DataError(f"{path}: must be a JSON object with {', '.join(sorted(keys))}")
    return record
