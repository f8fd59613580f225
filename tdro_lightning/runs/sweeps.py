"""Sweeps: what was planned, how each job ended, and one summary at the end of the command."""

import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tdro_lightning.config.composition import split_sweep
from tdro_lightning.errors import InputError
from tdro_lightning.files import read_checked_json, write_checked_json
from tdro_lightning.report.sweeps import JOB, SWEEP, read_sweep
from tdro_lightning.runs.outcome import UNEXPECTED, run_outcome
from tdro_lightning.secrets import mask_secrets

STARTED: list[Path] = []  # folders of the sweeps that this process has started


class Plan(Callback):
    """Hydra's hook that writes `sweep.json`, the jobs of a sweep, before any of them runs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the plan."""
        folder = Path(config.hydra.sweep.dir)
        params = config.hydra.sweeper.params or {}
        given = [f"{key}={value}" for key, value in params.items()]
        jobs = [settings(job) for job in split_sweep([*given, *config.hydra.overrides.task])]
        swept = [key for key in jobs[0] if len({job[key] for job in jobs}) > 1]
        command = f"python -m tdro_lightning {shlex.join(sys.argv[1:])}"
        plan = {"command": command, "jobs": [{key: job[key] for key in swept} for job in jobs]}
        write_checked_json(folder / SWEEP, plan)
        STARTED.append(folder)


def settings(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides by key."""
    return dict(override.lstrip("+").partition("=")[::2] for override in overrides)


@contextmanager
def job_record(job: HydraConf) -> Iterator[None]:
    """Write how a job of a sweep stands into its folder, at its start and its end.

    An error ends here, so that the other jobs run; `failures` lists it.
    """
    swept = read_checked_json(Path(job.sweep.dir) / SWEEP)["jobs"][0]
    own, path = settings(job.overrides.task), Path(job.runtime.output_dir) / JOB
    record = {"swept": {key: own[key] for key in swept}, "status": "running"}
    write_checked_json(path, {**record, "code": None, "error": None})
    ended = run_outcome(None)
    try:
        yield
    except BaseException as error:
        ended = run_outcome(error, job.runtime.output_dir)
        if not isinstance(error, Exception):
            raise
        if ended.hint == UNEXPECTED:
            logging.getLogger(__name__).exception("failed")
    finally:
        ends = {"status": ended.status, "code": ended.code}
        write_checked_json(path, {**record, **ends, "error": mask_secrets(ended.reason) or None})


def failures(sweep: Path) -> list[InputError]:
    """An error, with its exit code, for each job of the sweep that has not finished."""
    unfinished = [job for job in read_sweep(sweep / SWEEP).jobs if job.status != "finished"]
    return [
        InputError(
            f"job {', '.join(f'{key}={value}' for key, value in job.swept.items())}: "
            f"{job.error or job.status}",
            code=job.code or 1,
        )
        for job in unfinished
    ]


def summarise(sweep: Path) -> None:
    """Write the report of a sweep into its folder, and print its table and plot."""
    from tdro_lightning.report.page import write_sweep_report

    print(mask_secrets(write_sweep_report(sweep)))
    print(f"Report: {sweep / 'report.html'} and {sweep / 'report.md'}", flush=True)
