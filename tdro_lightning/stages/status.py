"""How a run stands, in words: `status.json`; and a lock that keeps a second run out of a folder."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from tdro_lightning.errors import ConfigError, InputError, NonFiniteError, Stopped
from tdro_lightning.files import read_json, write_json
from tdro_lightning.schema import Config
from tdro_lightning.stages.record import RECORD, flat
from tdro_lightning.trust import masked

STATUS = "status.json"
LOCK = ".lock"  # held by the process of the run; it falls with the process, however that ends


@contextmanager
def alone(config: Config) -> Iterator[None]:
    """Be the only run of a folder.

    Raises:
        ConfigError: another process is at work in it; the message names its id and machine.
    """
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        there = read_json(folder / STATUS) if (folder / STATUS).is_file() else {}
        raise ConfigError(
            f"run_dir={config.run_dir} is in use by process {there.get('process', 'unknown')} on "
            f"{there.get('machine', 'another machine')}; wait for it, stop it, or name another "
            "run_dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def told(config: Config) -> Iterator[None]:
    """Write how the run stands, at its start and at its end, whatever the end is."""
    path = Path(config.run_dir) / STATUS
    process, machine = os.getpid(), platform.node()
    changed = _changed(config)
    status: dict[str, Any] = {
        "status": "running",
        "exit_code": None,
        "reason": f"process {process} on {machine} is at work; without it, the run was killed",
        "next": "if it was killed, the same command goes on",
        "process": process,
        "machine": machine,
        "changed": changed,
    }

    def write(**now: Any) -> None:
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(path, {**status, **now, "written": moment})

    write()
    try:
        yield
    except (InputError, FloatingPointError) as error:
        code = NonFiniteError.code if isinstance(error, FloatingPointError) else error.code
        mend = "mend what the reason names; then the same command goes on"
        write(status="failed", exit_code=code, reason=masked(str(error)), next=mend)
        raise
    except Stopped as stopped:
        again = "the same command goes on"
        write(
            status=stopped.status, exit_code=stopped.code, reason=masked(str(stopped)), next=again
        )
        raise
    except KeyboardInterrupt:
        again = "the same command goes on"
        write(status="stopped", exit_code=130, reason="stopped by Ctrl-C", next=again)
        raise
    except BaseException as error:
        reason = masked(f"{type(error).__name__}: {error}")
        seek = f"this is no fault of the input; the traceback is in the log in {path.parent}"
        write(status="failed", exit_code=1, reason=reason, next=seek)
        raise
    done = f"all that the stage `{config.stage}` makes is in {path.parent}"
    write(status="finished", exit_code=0, reason=done, next="nothing")


def _changed(config: Config) -> list[str]:
    """Keys that an unfinished run in this folder had otherwise, so `key: before -> now`."""
    record = Path(config.run_dir) / RECORD
    if not record.is_file():
        return []
    before = read_json(record)
    if before.get("status") == "finished" or before.get("stage") != config.stage:
        return []
    then, now = flat(before.get("config", {})), flat(asdict(config))
    return [
        masked(f"{key}: {then.get(key)} -> {now.get(key)}")
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]
