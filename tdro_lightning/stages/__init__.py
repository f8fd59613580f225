"""The stages of an experiment; they meet in files only.

Each stage is a module of its name with `run(config)`, except `import`, which Python reserves. It is
imported when it runs, so that a chain with nothing left to do starts at once.
"""

import importlib

from tdro_lightning.processes import barrier, is_first_process
from tdro_lightning.schema import Config
from tdro_lightning.stages.record import recorded
from tdro_lightning.stages.status import alone, told

TOGETHER = ("fit", "evaluate", "chain")  # stages that use every process; others run in the first


def run_stage(config: Config, command: str) -> None:
    """Run the configured stage and write `run.json` and `status.json` beside its results.

    All processes of a run call it, and none goes on before the results are there.

    Raises:
        ConfigError: another run is at work in the folder.
    """
    module = {"import": "import_rows"}.get(config.stage, config.stage)
    stage = importlib.import_module(f"tdro_lightning.stages.{module}")
    if is_first_process():
        with alone(config), told(config), recorded(config, command):
            stage.run(config)
    elif config.stage in TOGETHER:
        stage.run(config)
    barrier()
