"""Stage `export`: an encoder as folders for other libraries, proven equal before they are named."""

from pathlib import Path

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.stages import require


def _run(config: Config) -> None:
    from tdro_lightning.assembly.export import export

    export(config, require(config.export))


def _inputs(config: Config) -> dict[str, Input]:
    settings = require(config.export)
    encoder: dict[str, Input] = {"encoder": settings.encoder}
    if settings.metrics is None:
        return encoder
    return encoder | {"metrics": str(Path(settings.metrics) / "metrics.json")}


def _rules(config: Config) -> list[str]:
    if "query" in require(config.export).prompts:
        return []
    return ["export.prompts.query is not set; it is the instruction of all queries, or null"]


STAGE = Stage(
    name="export",
    run=_run,
    section="export",
    settings=lambda config: ("export", "model", "data"),
    inputs=_inputs,
    outputs=("export",),
    rules=_rules,
    models=lambda config: [require(config.export).encoder],
)
