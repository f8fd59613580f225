"""One run of a stage, with its lock, its record and its status."""

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Stage
from tdro_lightning.console.output import collect_warnings, run_title, show_status
from tdro_lightning.distributed.peers import peer_errors
from tdro_lightning.distributed.processes import barrier, is_first_process
from tdro_lightning.runs.record import run_record
from tdro_lightning.runs.status import run_lock, status_file


def run_stage(stage: Stage, config: Config, command: str) -> None:
    """Run a stage and write `run.json` and `status.json` beside its results.

    All processes of a run call it, and none returns before the results are there.

    Raises:
        ConfigError: another run is at work in the folder.
    """
    with run_title(config.name):
        show_status("loading libraries")
        if config.trainer.threads is not None:
            import torch

            torch.set_num_threads(config.trainer.threads)
        if is_first_process() and stage.is_run:
            with (
                run_lock(config),
                collect_warnings() as warnings,
                status_file(config, warnings),
                run_record(stage, config, command, warnings),
                peer_errors(),
            ):
                stage.run(config)
        elif stage.all_processes or not stage.is_run:
            stage.run(config)
    barrier()
