"""Stage `validate`: every row of every domain, read and checked, and nothing else."""

from pathlib import Path

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.runs.inputs import domain_paths


def _run(config: Config) -> None:
    from tdro_lightning.assembly.validate import validate_domains

    validate_domains(config)


def _inputs(config: Config) -> dict[str, Input]:
    return {label: path for label, path in domain_paths(config).items() if Path(path).is_file()}


STAGE = Stage(
    name="validate",
    run=_run,
    settings=lambda config: ("domains", "data"),
    inputs=_inputs,
    outputs=("validation.json", "validation.md", "quarantine.jsonl"),
)
