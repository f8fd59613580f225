"""Stage `export`: an encoder as folders for other libraries, proven equal before they are named."""

from pathlib import Path

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage


def _run(config: Config) -> None:
    from tdro_lightning.assembly.export import export

    export(config)


def _inputs(config: Config) -> dict[str, Input]:
    assert config.export is not None
    paths: dict[str, Input] = {"encoder": config.export.encoder}
    if config.export.metrics is not None:
        paths["metrics"] = str(Path(config.export.metrics) / "metrics.json")
    return paths


def _rules(config: Config) -> list[str]:
    if config.export is None or "query" in config.export.prompts:
        return []
    return ["export.prompts.query is not set; it is the instruction of all queries, or null"]


def _models(config: Config) -> list[str]:
    assert config.export is not None
    return [config.export.encoder]


STAGE = Stage(
    name="export",
    run=_run,
    section="export",
    settings=lambda config: ("export", "model", "data"),
    inputs=_inputs,
    outputs=("export",),
    rules=_rules,
    models=_models,
)
