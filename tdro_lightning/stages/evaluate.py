"""Stage `evaluate`: BM25 and encoders on the evaluation sets of a benchmark."""

from tdro_lightning.config.constraints import benchmark_is_set
from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.runs.inputs import evaluation_sets


def _run(config: Config) -> None:
    from tdro_lightning.assembly.evaluate import evaluate_configured

    evaluate_configured(config)


def _inputs(config: Config) -> dict[str, Input]:
    assert config.evaluate is not None
    encoders: dict[str, Input] = {
        f"encoder {label}": path for label, path in config.evaluate.encoders.items()
    }
    return encoders | evaluation_sets(config)


def _models(config: Config) -> list[str]:
    assert config.evaluate is not None
    return list(config.evaluate.encoders.values())


STAGE = Stage(
    name="evaluate",
    run=_run,
    section="evaluate",
    settings=lambda config: ("evaluate", "benchmark", "model", "data"),
    inputs=_inputs,
    outputs=("metrics.json", "per_query"),
    rules=benchmark_is_set,
    models=_models,
    all_processes=True,
)
