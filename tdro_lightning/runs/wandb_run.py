"""The W&B run of a training run; a failure of W&B does not stop the training."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning.pytorch.loggers import WandbLogger

from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import tell
from tdro_lightning.files import read_json, write_json

STEP = "trainer/global_step"
WAIT, FINISH_WAIT = 15.0, 120.0  # seconds for the server's first answer and for its last
RUN_ID = "wandb.json"  # in the run folder: the tracker's name for this run


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


def start_run(config: Config, start: int) -> Any | None:
    """The configured W&B run, offline where its server cannot be reached; None without one.

    Online, a resumed run continues its W&B run. Offline it cannot: its parts are W&B runs of one
    group, each with the step at which it began.

    Args:
        config: the run's configuration.
        start: the step from which it continues.
    """
    wanted = config.logger.wandb
    modes = {"online": ("online", "offline"), "offline": ("offline",), "disabled": ()}[wanted]
    for mode in modes:
        try:
            return _started(config, mode, start)
        except Exception as error:  # no account, no answer, a full disk: no run needs them
            further = "offline" if mode != modes[-1] else "without it"
            tell(f"W&B cannot start {mode} ({_first_line(error)}); the run continues {further}")
            finish()
    return None


def running() -> Any | None:
    """W&B's run of this process, if any."""
    wandb = sys.modules.get("wandb")  # it takes a second to import, where it is not wanted
    return wandb.run if wandb else None


def finish(exit_code: int = 0) -> None:
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

    known = Path(config.run_dir) / RUN_ID
    name = read_json(known)["id"] if start and known.is_file() else uuid4().hex[:8]
    write_json(known, {"id": name})
    goes_on = {"id": name, "resume": "allow"} if mode == "online" else {"group": name}
    run = wandb.init(
        project=config.logger.project,
        name=config.name,
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
        **goes_on,  # type: ignore[arg-type]
    )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    return run


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
