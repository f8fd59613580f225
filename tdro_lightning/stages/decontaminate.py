"""Stage `decontaminate`: training data without what the benchmark asks and shows."""

from tdro_lightning.config.constraints import benchmark_is_set, whole_rows
from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Stage
from tdro_lightning.runs.inputs import domains, evaluation_sets
from tdro_lightning.stages import require


def _run(config: Config) -> None:
    from tdro_lightning.assembly.decontaminate import decontaminate_configured

    decontaminate_configured(config, require(config.decontaminate), require(config.benchmark))


STAGE = Stage(
    name="decontaminate",
    run=_run,
    section="decontaminate",
    settings=lambda config: ("decontaminate", "domains", "benchmark"),
    inputs=lambda config: domains(config) | evaluation_sets(config),
    outputs=("train", "dropped", "domains", "decontamination.json", "decontamination.md"),
    rules=lambda config: benchmark_is_set(config) + whole_rows(config),
    replaces_own=True,
)
