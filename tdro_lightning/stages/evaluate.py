"""Stage `evaluate`: BM25 and encoders on the evaluation sets of a benchmark."""

from tdro_lightning.config.constraints import benchmark_is_set
from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.runs.inputs import evaluation_sets
from tdro_lightning.stages import require


def _run(config: Config) -> None:
    from tdro_lightning.assembly.evaluate import evaluate_configured

    evaluate_configured(config, require(config.evaluate), require(config.benchmark))


def _inputs(config: Config) -> dict[str, Input]:
    encoders = require(config.evaluate).encoders.items()
    return {f"encoder {label}": path for label, path in encoders} | evaluation_sets(config)


STAGE = Stage(
    name="evaluate",
    run=_run,
    section="evaluate",
    settings=lambda config: ("evaluate", "benchmark", "model", "data"),
    inputs=_inputs,
    outputs=("metrics.json", "per_query"),
    rules=benchmark_is_set,
    models=lambda config: [*require(config.evaluate).encoders.values()],
    all_processes=True,
)
