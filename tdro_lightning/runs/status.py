"""How a run stands, in words: `status.json`; and a lock that keeps a second run out of a folder."""

import logging
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from tdro_lightning.config.schema import Config
from tdro_lightning.errors import ConfigError
from tdro_lightning.files import read_checked_json, write_json, write_text
from tdro_lightning.records.outputs import RECORD, STATUS
from tdro_lightning.runs.outcome import RESUME, run_outcome
from tdro_lightning.runs.record import changed_keys
from tdro_lightning.secrets import mask_secrets

LOCK = ".lock"  # held by the process of the run; it falls with the process, however that ends
OWNER = ".owner"  # which process that is; what a killed one leaves is overwritten

logger = logging.getLogger(__name__)


@contextmanager
def run_lock(config: Config) -> Iterator[None]:
    """Be the only run of a folder.

    Raises:
        ConfigError: another process is at work in it; the message names its id and machine.
    """
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = filelock.FileLock(folder / LOCK, blocking=False), folder / OWNER
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ConfigError(
            f"run_dir={config.run_dir} is in use by {_owner(owner)}; wait for it, stop it, or name "
            "another run_dir"
        ) from None
    try:
        write_text(owner, f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _owner(path: Path) -> str:
    """Who holds the lock; it writes that down just after it has taken the lock."""
    for _ in range(20):
        with suppress(OSError):
            return path.read_text(encoding="utf-8")
        time.sleep(0.1)
    return "another process"


@contextmanager
def status_file(config: Config, warnings: Sequence[str] = ()) -> Iterator[None]:
    """Write how the run stands, at its start and at its end, whatever the end is.

    Args:
        config: of the run.
        warnings: what the run warns of until its end.
    """
    path = Path(config.run_dir) / STATUS
    process, machine = os.getpid(), platform.node()
    status: dict[str, Any] = {
        "status": "running",
        "exit_code": None,
        "reason": f"process {process} on {machine} is at work; without it, the run was killed",
        "next": f"If it was killed: {RESUME}",
        "process": process,
        "machine": machine,
        "changed": _changed(config),
    }

    def write(**now: Any) -> None:
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(path, {**status, **now, "warnings": [*warnings], "written": moment})

    write()
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        ended = run_outcome(error, config.run_dir)
        if error is not None:
            logger.info("the run ends: %s", ended.status, exc_info=error)
        done = f"all that the stage `{config.stage}` makes is in {path.parent}"
        reason = mask_secrets(ended.reason) or done
        write(status=ended.status, exit_code=ended.code, reason=reason, next=ended.hint)


def _changed(config: Config) -> list[str]:
    """Keys that an unfinished run in this folder had otherwise, so `key: before -> now`."""
    record = Path(config.run_dir) / RECORD
    before = read_checked_json(record) if record.is_file() else {}
    if before.get("status") == "finished" or before.get("stage") != config.stage:
        return []
    differences = changed_keys(before.get("config", {}), asdict(config))
    return [mask_secrets(f"{key}: {then} -> {now}") for key, then, now in differences]
