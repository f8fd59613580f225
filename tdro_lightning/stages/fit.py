"""Stage `fit`: tDRO, or fine-tuning, which with uniform weights makes the reference."""

from pathlib import Path

from tdro_lightning.config.schema import Config, FinetuneConfig, TDROConfig
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.dro import WITHOUT_WEIGHTS
from tdro_lightning.errors import DataError
from tdro_lightning.runs.inputs import domains, evaluation_sets


def _run(config: Config) -> None:
    from tdro_lightning.assembly.fit import fit

    fit(config)


def _inputs(config: Config) -> dict[str, Input]:
    inputs: dict[str, Input] = {"model": config.model.path}
    if isinstance(config.module, TDROConfig) and config.module.reference is not None:
        if not Path(config.module.reference).is_dir():
            raise DataError(
                f"module.reference={config.module.reference}: no such folder; "
                "it is the `encoder` folder of a run with uniform weights"
            )
        inputs["reference"] = config.module.reference
    inputs |= domains(config)
    if isinstance(config.module, FinetuneConfig):
        if config.transfer.weights is not None and config.transfer.rule not in WITHOUT_WEIGHTS:
            inputs["weights"] = config.transfer.weights
        inputs |= evaluation_sets(config)
    return inputs


def _rules(config: Config) -> list[str]:
    wrong = []
    devices = config.trainer.devices or 1
    if config.data.batch_size % devices:
        wrong.append(
            f"data.batch_size={config.data.batch_size} must be a multiple of the "
            f"trainer.devices={devices} that share it"
        )
    if isinstance(config.module, TDROConfig):
        return wrong + _tdro_rules(config, config.module)
    rule = config.transfer.rule
    if (
        isinstance(config.module, FinetuneConfig)
        and rule not in WITHOUT_WEIGHTS
        and config.transfer.weights is None
    ):
        wrong.append(
            f"transfer.rule={rule} needs transfer.weights=PATH, the weights.json of a tDRO run"
        )
    return wrong


def _tdro_rules(config: Config, module: TDROConfig) -> list[str]:
    wrong = []
    count = len(config.domains.only or config.domains.catalogue)
    if config.data.batch_size < count:
        wrong.append(
            f"data.batch_size={config.data.batch_size} must be at least the number of "
            f"domains, {count}: tDRO compares all of them at every step"
        )
    if config.data.negatives < 1:
        wrong.append("data.negatives must be 1 or more: tDRO uses hard negatives only")
    if module.reference is None and module.measurement != "plain":
        wrong.append(
            f"module.measurement={module.measurement} needs module.reference=FOLDER, "
            "the `encoder` folder of a run with uniform weights"
        )
    return wrong


def _models(config: Config) -> list[str]:
    return [config.model.path, *filter(None, [getattr(config.module, "reference", None)])]


STAGE = Stage(
    name="fit",
    run=_run,
    section="module",
    settings=lambda config: (
        *("domains", "model", "data", "module"),
        *("transfer", "optimiser", "trainer", "benchmark"),
    ),
    inputs=_inputs,
    outputs=(
        *("encoder", "weights.json", "mixture.json", "data_usage.json", "history.csv"),
        *("metrics.json", "per_query", "diagnostics", "quarantine.jsonl"),
    ),
    rules=_rules,
    models=_models,
    all_processes=True,
)
