"""Trackers beside our own history: Weights & Biases and TensorBoard. None of them ends a run."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import show_status, tell
from tdro_lightning.distributed.processes import is_first_process
from tdro_lightning.errors import ConfigError
from tdro_lightning.evaluation.evaluate import main_metric
from tdro_lightning.files import read_json, write_json
from tdro_lightning.report.collect import read_run
from tdro_lightning.report.runs import Run
from tdro_lightning.report.sweeps import sweep_folder, swept_settings
from tdro_lightning.training.history import History

STEP = "trainer/global_step"
WAIT, FINISH_WAIT = 15.0, 120.0  # seconds for the server's first answer and for its last
RUN_ID = "wandb.json"  # in the run folder: the tracker's name for this run
TABLE = {  # column: the prefix of its metrics in the history
    "weight": "weights/",
    "measurement": "measurement/",
    "proxy loss": "loss/proxy/",
    "reference loss": "loss/reference/",
}
LONGEST = 128  # characters of a name that W&B takes
TABLE_STEPS = 200  # steps in the table of the heat map; W&B shows 10,000 rows
KEPT = ("*.json", "*.csv", "per_query/*/*.json")  # of a run's folder; models stay where they are


def require_trackers(config: Config) -> None:
    """Refuse, before anything is loaded, what is not installed.

    Raises:
        ConfigError: `logger.tensorboard` without the package.
    """
    if config.logger.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError(
            "logger.tensorboard=true needs the package tensorboard: "
            "pip install 'tdro-lightning[tensorboard]'"
        )


def loggers(config: Config, start: int) -> list[Logger]:
    """What a training run logs to, our own history first.

    Args:
        config: `logger` and the run folder.
        start: first step that will be logged.
    """
    trackers: list[Logger] = [History(Path(config.run_dir), start)]
    if not is_first_process():
        return trackers
    if config.logger.tensorboard:
        trackers.append(
            TensorBoardLogger(
                config.run_dir,
                name="tensorboard",
                version="",
                default_hp_metric=False,
                purge_step=start or None,
            )
        )
    show_status("starting W&B")
    run = start_wandb(config, start)
    return trackers if run is None else [*trackers, FailsafeWandbLogger(run)]


@contextmanager
def close_trackers(config: Config) -> Iterator[None]:
    """Close a training run's trackers at its end; a finished run's results go to W&B before."""
    finished = False
    try:
        yield
        finished = True
    finally:
        wandb = sys.modules.get("wandb")  # it takes a second to import, where it is not wanted
        run = wandb and wandb.run
        if run:
            if finished:
                _hand_over(config, run)
            offline, folder = run.offline, run.settings.sync_dir
            finish_wandb(0 if finished else 1)
            if offline and finished:
                place = os.path.relpath(folder)
                tell(f"  W&B has it offline; to upload it: wandb sync {place}")


def _hand_over(config: Config, run: Any) -> None:
    """Final weights and scores as the summary, the heat map's table, and the run's files."""
    import wandb

    folder = Path(config.run_dir)
    try:
        finished = read_run(folder, own=True)
        run.summary.update({f"final_weight/{w.domain}": w.last for w in finished.weights})
        for retriever in finished.retrievers:
            for name, results in retriever.sets.items():
                metric = main_metric(results.scores)
                run.summary[f"{metric}/{retriever.label}/{name}"] = results.scores[metric]
        if rows := history_rows(finished):
            table = wandb.Table(columns=["step", "domain", *TABLE], data=rows)
            run.log({"domains": table})
        files = wandb.Artifact(f"run-{run.id}", type="run", description=config.description)
        for path in sorted(path for pattern in KEPT for path in folder.glob(pattern)):
            # Not copied: they stay in the run's folder, and are uploaded from there.
            files.add_file(str(path), str(path.relative_to(folder)), policy="immutable")
        run.log_artifact(files)
    except Exception as error:  # whatever it is, the results are in the run's folder
        tell(f"  W&B: summary, table or files are not complete ({error})")


def history_rows(run: Run) -> list[list[Any]]:
    """Step, domain and the columns of `TABLE`, for at most `TABLE_STEPS` steps evenly spread."""
    by_step = {
        title: {
            name: dict(zip(series.steps, series.values, strict=True))
            for name, series in run.series(prefix).items()
        }
        for title, prefix in TABLE.items()
    }
    weights = by_step["weight"]
    steps = sorted({step for values in weights.values() for step in values})
    every = -(-len(steps) // TABLE_STEPS) or 1
    return [
        [step, name, *(by_step[title].get(name, {}).get(step) for title in TABLE)]
        for step in steps[::-1][::every][::-1]
        for name in weights
    ]


class FailsafeWandbLogger(WandbLogger):
    """W&B's logger, which stops with one warning when W&B does not accept a value.

    Args:
        run: the W&B run.
    """

    def __init__(self, run: Any) -> None:
        super().__init__(experiment=run)
        self._lost = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values, as long as W&B accepts them."""
        if self._lost:
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # whatever it is, a tracker is not worth a run
            self._lost = True
            tell(f"W&B accepts no more values ({_first_line(error)}); history.csv continues")


def start_wandb(config: Config, start: int) -> Any | None:
    """The configured W&B run, offline where its server cannot be reached; None without one.

    Online, a resumed run continues its W&B run. Offline it cannot: its parts are W&B runs of one
    group, each with the step at which it began. The jobs of a sweep are one group, and each is
    named by its own settings.

    Args:
        config: the run's configuration.
        start: the step from which it continues.
    """
    modes = {"online": ("online", "offline"), "offline": ("offline",), "disabled": ()}
    for mode in modes[config.logger.wandb]:
        try:
            return _started(config, mode, start)
        except Exception as error:  # no account, no answer, a full disk: no run needs them
            further = "offline" if mode == "online" else "without it"
            tell(f"W&B cannot start {mode} ({_first_line(error)}); the run continues {further}")
            finish_wandb()
    return None


def finish_wandb(exit_code: int = 0) -> None:
    """Close W&B's run, if any: the next of a chain or sweep must not write into this one."""
    wandb = sys.modules.get("wandb")
    if wandb is None:
        return
    for close in (partial(wandb.finish, exit_code), wandb.teardown):
        try:
            close()
        except Exception as error:  # its process may be gone
            tell(f"W&B could not be closed ({_first_line(error)})")


def _started(config: Config, mode: str, start: int) -> Any:
    import wandb

    id_file = Path(config.run_dir) / RUN_ID
    name = read_json(id_file)["id"] if start and id_file.is_file() else uuid4().hex[:8]
    write_json(id_file, {"id": name})
    title, group = _title_and_group(config)
    continuation = {"id": name, "resume": "allow"} if mode == "online" else {}
    run = wandb.init(
        project=config.logger.project,
        name=title,
        group=group or (None if mode == "online" else name),
        job_type=config.module.kind,
        dir=config.run_dir,
        mode=mode,  # type: ignore[arg-type]
        config=asdict(config) | {"resumed_at_step": start},
        settings=wandb.Settings(
            init_timeout=WAIT,
            login_timeout=WAIT,
            finish_timeout=FINISH_WAIT,
            disable_git=True,  # the address of a remote may hold a token; run.json has the commit
        ),
        **continuation,  # type: ignore[arg-type]
    )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    return run


def _title_and_group(config: Config) -> tuple[str, str | None]:
    """What W&B calls the run, and the group of the sweep of which it is a job, if it is one.

    The group is the end of the sweep's path: the same when a job is resumed, and another for each
    sweep, whose folder is named by the time at which it began.
    """
    folder = Path(config.run_dir)
    sweep = sweep_folder(folder)
    if sweep is None:
        return config.name, None
    swept = swept_settings(folder)
    values = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in swept.items())
    title = f"{config.name} [{values}]" if values else config.name
    return title[:LONGEST], "/".join(sweep.parts[-2:])[-LONGEST:]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
