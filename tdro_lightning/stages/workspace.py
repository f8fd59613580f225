"""Stage `workspace`: the view of a W&B project that shows what tDRO learns, and compares runs."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Stage
from tdro_lightning.console.output import tell
from tdro_lightning.errors import ConfigError
from tdro_lightning.stages import require

CURVES = {  # section: {panel: metrics, as a pattern}
    "Domain weights": {
        "weights": "^weights/.*",
        "effective number of domains": "^effective_domains$",
    },
    "Measurement": {"measurement": "^measurement/.*", "its norm": "^measurement_norm$"},
    "Losses": {
        "loss": "^loss$",
        "proxy, by domain": "^loss/proxy/.*",
        "reference, by domain": "^loss/reference/.*",
    },
    "Speed": {"passages a second": "^speed/passages_per_second$", "memory": "^speed/peak_memory"},
}


def _run(config: Config) -> None:
    """Save the workspace of `logger.project`.

    Raises:
        ConfigError: the package is missing, or nobody is logged in to W&B.
    """
    import wandb

    settings = require(config.workspace)
    if not wandb.login(prompt=False):
        raise ConfigError("stage=workspace saves to W&B, and nobody is logged in: wandb login")
    saved = workspace(settings.entity, config.logger.project, settings.name).save()
    tell(f"Workspace: {saved.url}")


def workspace(entity: str, project: str, name: str) -> Any:
    """Weight curves, measurement, losses, and the comparison of the runs of a sweep.

    Raises:
        ConfigError: the package wandb-workspaces is not installed.
    """
    if find_spec("wandb_workspaces") is None:
        raise ConfigError(
            "stage=workspace needs the package wandb-workspaces: "
            "pip install 'tdro-lightning[workspace]'"
        )
    # Modules of star imports, whose names a type checker does not see.
    from tdro_lightning.runs.trackers import STEP

    panels: Any = import_module("wandb_workspaces.reports.v2")
    workspaces: Any = import_module("wandb_workspaces.workspaces")

    sections = [
        workspaces.Section(
            name=title,
            panels=[
                panels.LinePlot(title=panel, x=STEP, metric_regex=pattern, max_runs_to_show=20)
                for panel, pattern in curves.items()
            ],
            is_open=True,
        )
        for title, curves in CURVES.items()
    ]
    compared = workspaces.Section(
        name="Comparison of runs",
        panels=[
            panels.RunComparer(diff_only=True),
            panels.ParallelCoordinatesPlot(
                columns=[
                    panels.ParallelCoordinatesPlotColumn(panels.Config(key))
                    for key in ("transfer.rule", "transfer.share", "module.measurement", "seed")
                ]
            ),
        ],
        is_open=True,
    )
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[*sections, compared],
        settings=workspaces.WorkspaceSettings(x_axis=STEP),
    )


STAGE = Stage(
    name="workspace",
    run=_run,
    section="workspace",
    runs_every_time=True,
)
