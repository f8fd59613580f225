"""Stage `fit`: tDRO, fine-tuning (with uniform weights the reference), adaptation."""

from dataclasses import asdict
from pathlib import Path

from tdro_lightning.config.constraints import mixture_rules
from tdro_lightning.config.schema import Config, FinetuneConfig, MNTPConfig, TDROConfig
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.config.training import ModelConfig
from tdro_lightning.dro.transfer import RULES
from tdro_lightning.errors import DataError
from tdro_lightning.models.model_files import saved_head
from tdro_lightning.records.outputs import BEST_STEP, SPARSE_VECTORS
from tdro_lightning.runs.inputs import domains, evaluation_sets


def _run(config: Config) -> None:
    from tdro_lightning.assembly.fit import fit

    fit(config)


def _inputs(config: Config) -> dict[str, Input]:
    inputs: dict[str, Input] = {"model": config.model.path}
    module, transfer = config.module, config.transfer
    if isinstance(module, TDROConfig) and module.reference is not None:
        if not Path(module.reference).is_dir():
            raise DataError(
                f"module.reference={module.reference}: no such folder; "
                "it is the `encoder` folder of a run with uniform weights"
            )
        inputs["reference"] = module.reference
    inputs |= domains(config)
    if config.validation is not None and config.validation.folder is not None:
        if not Path(config.validation.folder).is_dir():
            raise DataError(
                f"validation.folder={config.validation.folder}: no such folder; it is an "
                "evaluation set in BEIR's layout"
            )
        inputs["validation"] = config.validation.folder
    if isinstance(module, FinetuneConfig):
        if transfer.weights is not None and RULES[transfer.rule].weighted:
            inputs["weights"] = transfer.weights
        inputs |= evaluation_sets(config)
    return inputs


def _rules(config: Config) -> list[str]:
    wrong = []
    batch_size, devices = config.data.batch_size, config.trainer.devices or 1
    if batch_size % devices:
        wrong.append(
            f"data.batch_size={batch_size} must be a multiple of the "
            f"trainer.devices={devices} that share it"
        )
    validation = config.validation
    if validation is not None and validation.metric == "loss" and config.data.negatives < 1:
        wrong.append(
            "validation.metric=loss compares with hard negatives, and data.negatives=0; use "
            "validation.metric=ndcg@10"
        )
    module = config.module
    if isinstance(module, MNTPConfig):
        if validation is not None:
            wrong.append(
                "validation is for training with queries, and module=mntp has none; leave it out, "
                "in a workflow with chain.steps"
            )
        return wrong
    if module.sparsity is not None and config.model.head != "sparse":
        wrong.append("module.sparsity is for sparse vectors; it needs model.head=sparse")
    if isinstance(module, FinetuneConfig):
        wrong += mixture_rules(config)
    if not isinstance(module, TDROConfig):
        return wrong
    count = len(config.domains.only or config.domains.catalogue)
    if batch_size < count:
        wrong.append(
            f"data.batch_size={batch_size} must be at least the number of "
            f"domains, {count}: tDRO compares all of them at every step"
        )
    if config.model.dimensions is not None:
        wrong.append("model.dimensions is for fine-tuning; tDRO compares losses of whole vectors")
    if config.data.negatives < 1:
        wrong.append("data.negatives must be 1 or more: tDRO uses hard negatives only")
    if module.reference is None and module.measurement != "plain":
        wrong.append(
            f"module.measurement={module.measurement} needs module.reference=FOLDER, "
            "the `encoder` folder of a run with uniform weights"
        )
    elif module.reference is not None and module.measurement != "plain":
        wrong += _other_head(config.model, module.reference)
    return wrong


def _other_head(model: ModelConfig, reference: str) -> list[str]:
    """A message where the reference's folder says that its vectors are made in another way."""
    asked = asdict(model.sparse) | {"kind": "sparse"} if model.head == "sparse" else {}
    own, theirs = saved_head(model.path), saved_head(reference)
    own = asked if own is None else own
    if theirs is None:
        return []
    kinds = ["sparse" if head.get("kind") == "sparse" else "dense" for head in (own, theirs)]
    if kinds[0] != kinds[1]:
        return [
            f"module.reference={reference} makes {kinds[1]} vectors, and the proxy {kinds[0]} ones "
            f"(model.head={kinds[0]}), whose losses cannot be compared; take a reference that was "
            f"trained with model.head={kinds[0]}, or model.head={kinds[1]}"
        ]
    keys = asdict(model.sparse) if kinds[0] == "sparse" else ()
    return [
        f"module.reference={reference} was trained with model.sparse.{key}={_shown(theirs[key])}, "
        f"and the proxy has {_shown(own[key])}; give both the same"
        for key in keys
        if key in own and key in theirs and own[key] != theirs[key]
    ]


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


STAGE = Stage(
    name="fit",
    run=_run,
    section="module",
    settings=lambda config: (
        *("domains", "model", "data", "module"),
        *("transfer", "optimiser", "trainer", "benchmark", "validation"),
    ),
    inputs=_inputs,
    outputs=(
        *("encoder", "weights.json", "mixture.yaml", "data_usage.json", "history.csv"),
        *("metrics.json", "per_query", SPARSE_VECTORS, "diagnostics", "quarantine.jsonl"),
        BEST_STEP,
    ),
    rules=_rules,
    models=lambda config: [
        config.model.path,
        *filter(None, [getattr(config.module, "reference", None)]),
    ],
    all_processes=True,
)
