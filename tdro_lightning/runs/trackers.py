"""Trackers beside our own history: Weights & Biases and TensorBoard. None of them ends a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import show_status, tell
from tdro_lightning.distributed.processes import is_first_process
from tdro_lightning.errors import ConfigError
from tdro_lightning.evaluation.evaluate import main_metric
from tdro_lightning.report.collect import read_run
from tdro_lightning.report.runs import Run
from tdro_lightning.runs import wandb_run
from tdro_lightning.training.history import History

TABLE = {  # column: the prefix of its metrics in the history
    "weight": "weights/",
    "measurement": "measurement/",
    "proxy loss": "loss/proxy/",
    "reference loss": "loss/reference/",
}
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
    show_status("starting W&B")
    run = wandb_run.start_run(config, start)
    return found if run is None else [*found, wandb_run.FailsafeWandbLogger(run)]


@contextmanager
def close_trackers(config: Config) -> Iterator[None]:
    """Close a training run's trackers at its end; a finished run's results go to W&B before."""
    finished = False
    try:
        yield
        finished = True
    finally:
        run = wandb_run.running()
        if run is not None:
            if finished:
                _hand_over(config, run)
            offline, folder = run.offline, run.settings.sync_dir
            wandb_run.finish(0 if finished else 1)
            if offline and finished:
                tell(f"  W&B has it offline; to upload it: wandb sync {_relative(folder)}")


def _hand_over(config: Config, run: Any) -> None:
    """Final weights and scores as the summary, the heat map's table, and the run's files."""
    import wandb

    folder = Path(config.run_dir)
    try:
        done = read_run(folder, own=True)
        run.summary.update({f"final_weight/{w.domain}": w.last for w in done.weights})
        for retriever in done.retrievers:
            for name, metrics in retriever.sets.items():
                metric = main_metric(metrics)
                run.summary[f"{metric}/{retriever.label}/{name}"] = metrics[metric]
        if rows := history_rows(done):
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
