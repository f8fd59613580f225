"""Trackers beside our own history: Weights & Biases and TensorBoard. None of them ends a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from tdro_lightning.callbacks.history import History
from tdro_lightning.errors import ConfigError
from tdro_lightning.evaluation.evaluate import main_metric
from tdro_lightning.processes import is_first_process
from tdro_lightning.report.collect import read_run
from tdro_lightning.report.runs import Run
from tdro_lightning.schema import Config
from tdro_lightning.stages.console import tell
from tdro_lightning.watch import doing

STEP = "trainer/global_step"
TABLE = {  # column: the prefix of its metrics in the history
    "weight": "weights/",
    "measurement": "measurement/",
    "proxy loss": "loss/proxy/",
    "reference loss": "loss/reference/",
}
TABLE_STEPS = 200  # steps in the table of the heat map; W&B shows 10,000 rows
KEPT = ("*.json", "*.csv", "per_query/*/*.json")  # of a run's folder; models stay where they are
CONNECT_SECONDS, FINISH_SECONDS = 15, 120  # that an unreachable W&B may take


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
    found: list[Logger] = [History(Path(config.run_dir), start)]
    if not is_first_process():
        return found
    if config.logger.tensorboard:
        found.append(
            TensorBoardLogger(
                config.run_dir,
                name="tensorboard",
                version="",
                default_hp_metric=False,
                purge_step=start or None,
            )
        )
    if config.logger.wandb != "disabled":
        doing("starting W&B")
        run = _started(config)
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        found.append(WandbLogger(experiment=run))
    return found


@contextmanager
def tracked(config: Config) -> Iterator[None]:
    """Close a training run's trackers at its end; a finished run's results go to W&B before."""
    failed = 1
    try:
        yield
        if wandb.run is not None:
            _hand_over(config, wandb.run)
        failed = 0
    finally:
        if wandb.run is not None:  # the next run of a chain or sweep must not write into this one
            offline, folder = wandb.run.offline, wandb.run.settings.sync_dir
            wandb.finish(exit_code=failed)
            if offline and not failed:
                tell(f"  W&B has it offline; to upload it: wandb sync {_relative(folder)}")


def _started(config: Config) -> Any:
    def start(mode: str) -> Any:
        return wandb.init(
            project=config.logger.project,
            name=config.name,
            group=config.name.partition("/")[0],
            job_type=config.module.kind,
            dir=config.run_dir,
            mode=mode,  # type: ignore[arg-type]
            config=asdict(config),
            settings=wandb.Settings(init_timeout=CONNECT_SECONDS, finish_timeout=FINISH_SECONDS),
        )

    if config.logger.wandb == "online":
        try:
            if not wandb.login(prompt=False):
                raise wandb.Error("nobody is logged in; `wandb login` does that")
            return start("online")
        except wandb.Error as error:
            tell(f"  W&B: {str(error).partition(chr(10))[0]}; this run is kept offline")
    return start("offline")


def _hand_over(config: Config, run: Any) -> None:
    """Final weights and scores as the summary, the heat map's table, and the run's files."""
    folder = Path(config.run_dir)
    try:
        done = read_run(folder)
        run.summary.update({f"final_weight/{w.domain}": w.last for w in done.weights})
        for retriever in done.retrievers:
            for name, metrics in retriever.sets.items():
                metric = main_metric(metrics)
                run.summary[f"{metric}/{retriever.label}/{name}"] = metrics[metric]
        if rows := domain_rows(done):
            table = wandb.Table(columns=["step", "domain", *TABLE], data=rows)
            run.log({"domains": table})
        files = wandb.Artifact(f"run-{run.id}", type="run", description=config.description)
        for path in sorted(path for pattern in KEPT for path in folder.glob(pattern)):
            # Not copied: they stay in the run's folder, and are uploaded from there.
            files.add_file(str(path), str(path.relative_to(folder)), policy="immutable")
        run.log_artifact(files)
    except (wandb.Error, OSError) as error:
        tell(f"  W&B: summary, table or files are not complete ({error})")


def domain_rows(run: Run) -> list[list[Any]]:
    """Step, domain and the columns of `TABLE`, for at most `TABLE_STEPS` steps evenly spread."""
    columns = {title: run.series(prefix) for title, prefix in TABLE.items()}
    steps = sorted({step for series in columns["weight"].values() for step in series.steps})
    every = -(-len(steps) // TABLE_STEPS) or 1
    by_step = {
        title: {name: dict(zip(s.steps, s.values, strict=True)) for name, s in series.items()}
        for title, series in columns.items()
    }
    return [
        [step, name, *(by_step[title].get(name, {}).get(step) for title in TABLE)]
        for step in steps[::-1][::every][::-1]
        for name in columns["weight"]
    ]


def _relative(folder: str) -> Path:
    path = Path(folder)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
