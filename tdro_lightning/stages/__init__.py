"""The stages of an experiment; they meet in files only.

Each stage is a module of its name with `run(config)`, except `import`, which Python reserves. It is
imported when it runs, so that a chain with nothing left to do starts at once.
"""

import importlib

from tdro_lightning.config.constraints import TOGETHER
from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import doing, entitled, noted_warnings
from tdro_lightning.distributed.peers import named_peer
from tdro_lightning.distributed.processes import barrier, is_first_process
from tdro_lightning.runs.record import recorded
from tdro_lightning.runs.status import alone, told


def run_stage(config: Config, command: str) -> None:
    """Run the configured stage and write `run.json` and `status.json` beside its results.

    All processes of a run call it, and none goes on before the results are there.

    Raises:
        ConfigError: another run is at work in the folder.
    """
    with entitled(config.name):
        _run(config, command)
    barrier()


def _run(config: Config, command: str) -> None:
    module = {"import": "import_rows"}.get(config.stage, config.stage)
    doing("loading libraries")
    if config.trainer.threads is not None:
        import torch

        torch.set_num_threads(config.trainer.threads)
    stage = importlib.import_module(f"tdro_lightning.stages.{module}")
    if config.stage == "plan":  # no run: the folder's record is of the run that is planned
        stage.run(config)
    elif is_first_process():
        with (
            alone(config),
            noted_warnings() as warnings,
            told(config, warnings),
            recorded(config, command, warnings),
            named_peer(),
        ):
            stage.run(config)
    elif config.stage in TOGETHER:
        stage.run(config)
