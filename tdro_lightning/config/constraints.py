"""Which values the keys of a configuration may have, each by itself and together."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from tdro_lightning import evaluation
from tdro_lightning.config.safety import refuse_unsafe_name
from tdro_lightning.config.schema import (
    Config,
    FinetuneConfig,
    MineConfig,
    SimulateConfig,
    SourceConfig,
    TDROConfig,
)
from tdro_lightning.data import imports
from tdro_lightning.dro import WITHOUT_WEIGHTS
from tdro_lightning.errors import ConfigError
from tdro_lightning.mining.rule import MiningRule

STAGES = (
    *("import", "harvest", "mine", "decontaminate", "validate"),
    *("init_model", "fit", "evaluate", "simulate", "report", "export", "chain", "plan"),
    "workspace",
)
# Stages that use every process; others run in the first.
TOGETHER = ("mine", "fit", "evaluate", "chain")
MOST_THREADS = 1024
SECTIONS = {  # that a stage needs
    **{
        name: name
        for name in (
            *("harvest", "mine", "decontaminate", "evaluate", "simulate", "report", "export"),
            *("chain", "workspace"),
        )
    },
    **{"import": "source", "fit": "module", "plan": "module"},
}
CHOICES = {
    "stage": STAGES,
    "source.layout": imports.LAYOUTS,
    "decontaminate.documents": ("all", "relevant"),
    "model.pooling": ("last", "mean"),
    "model.dtype": ("float32", "bfloat16"),
    "model.attention": ("auto", "flash_attention_2", "sdpa", "eager"),
    "trainer.precision": ("32-true", "bf16-mixed"),
    "strategy.kind": ("single", "ddp", "fsdp"),
    "trainer.resume": ("never", "auto", "must"),
    "data.on_bad_row": ("error", "skip"),
    "transfer.kind": ("last", "mean", "ema"),
    "logger.wandb": ("offline", "online", "disabled"),
    "mine.index": ("exact", "ivf"),
    "benchmark.layout": evaluation.LAYOUTS,
}
POSITIVE = (
    "data.batch_size",
    "data.query_tokens",
    "data.passage_tokens",
    "trainer.steps",
    "trainer.devices",
    "trainer.threads",
    "trainer.chunk_tokens",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.max_hours",
    "optimiser.lr",
    "optimiser.clip_norm",
    "module.temperature",
    "simulate.steps",
    "simulate.rows",
    "simulate.margin_std",
    "benchmark.depth",
    "plan.mfu",
    "plan.tokens_per_second",
    "plan.price",
)


def require_fitting(config: Config) -> None:
    """Refuse values that are not allowed, or do not fit together.

    Raises:
        ConfigError: names every one of them.
    """
    values = {key: _value(config, key) for key in (*CHOICES, *POSITIVE)}
    wrong = [
        f"{key}={values[key]!r} must be one of {', '.join(allowed)}"
        for key, allowed in CHOICES.items()
        if values[key] not in (None, *allowed)
    ]
    wrong += [
        f"{key}={values[key]} must be above 0"
        for key in POSITIVE
        if values[key] is not None and values[key] <= 0
    ]
    for key in ("warmup_steps", "weight_decay"):
        if getattr(config.optimiser, key) < 0:
            wrong.append(f"optimiser.{key}={getattr(config.optimiser, key)} must be 0 or more")
    if not 0 <= config.optimiser.min_lr_ratio <= 1:
        wrong.append(f"optimiser.min_lr_ratio={config.optimiser.min_lr_ratio} must be in [0, 1]")
    if config.seed < 0:
        wrong.append(f"seed={config.seed} must be 0 or more")
    for key in ("data.negatives", "data.workers", "data.max_bad_rows", "trainer.kept_tokens"):
        if _value(config, key) < 0:
            wrong.append(f"{key}={_value(config, key)} must be 0 or more")
    if (config.trainer.threads or 1) > MOST_THREADS:
        wrong.append(f"trainer.threads={config.trainer.threads} must be {MOST_THREADS} at most")
    devices = config.trainer.devices or 1
    if config.strategy.kind == "single" and devices > 1 and config.stage != "plan":
        wrong.append(
            f"trainer.devices={config.trainer.devices} needs strategy=ddp or strategy=fsdp; "
            "strategy=single is one process on one device"
        )
    for key in ("data.query_tokens", "data.passage_tokens"):
        if _value(config, key) == 1:
            wrong.append(f"{key}=1 leaves no room for a text beside its last, special token")
    if config.stage == "fit" and config.data.batch_size % devices:
        wrong.append(
            f"data.batch_size={config.data.batch_size} must be a multiple of the "
            f"trainer.devices={devices} that share it"
        )
    if config.strategy.cpu_offload and config.strategy.kind != "fsdp":
        wrong.append(f"strategy.cpu_offload needs strategy=fsdp, not {config.strategy.kind}")
    wrong += _check_names(config)
    wrong += _check_stage(config)
    if wrong:
        raise ConfigError("\n".join(wrong))


def _check_names(config: Config) -> list[str]:
    """Names that become files' names, and files that must lie in their folder."""
    named = {
        "domains.catalogue": list(config.domains.catalogue),
        "chain.steps": list(config.chain.steps) if config.chain else [],
    }
    wrong = []
    for key, names in named.items():
        wrong += [found for name in names if (found := refuse_unsafe_name(key, name))]
        alike = [n for n, found in Counter(name.lower() for name in names).items() if found > 1]
        wrong += [f"{key}: {n!r} stands twice but for upper and lower case" for n in alike]
    for name, entry in config.domains.catalogue.items():
        if Path(entry.file).is_absolute() or ".." in Path(entry.file).parts:
            wrong.append(
                f"domains.catalogue.{name}.file={entry.file!r} must lie in the folder of the "
                "domain files, domains.root"
            )
    return wrong


def _check_stage(config: Config) -> list[str]:
    wrong = _check_sections(config)
    if config.mine is not None:
        wrong += _check_mine(config.mine)
    if config.stage == "import" and config.source is not None:
        wrong += _check_source(config.source)
    if config.simulate is not None:
        wrong += _check_simulate(config.simulate)
    if config.stage == "fit" and isinstance(config.module, TDROConfig):
        wrong += _check_tdro(config, config.module)
    if config.stage == "fit" and isinstance(config.module, FinetuneConfig):
        rule = config.transfer.rule
        if rule not in WITHOUT_WEIGHTS and config.transfer.weights is None:
            wrong.append(
                f"transfer.rule={rule} needs transfer.weights=PATH, the weights.json of a tDRO run"
            )
    return wrong


def _check_sections(config: Config) -> list[str]:
    """What a stage needs, and what the sections in use need beside it."""
    wrong = []
    section = SECTIONS.get(config.stage)
    if section and getattr(config, section) is None:
        wrong.append(f"stage={config.stage} needs the section `{section}`")
    if config.stage in ("evaluate", "decontaminate") and config.benchmark is None:
        wrong.append(f"stage={config.stage} needs a benchmark: benchmark=NAME")
    if config.stage in ("mine", "decontaminate") and config.data.on_bad_row == "skip":
        wrong.append(
            f"data.on_bad_row=skip is for training and stage=validate; stage={config.stage} ends "
            "at a bad row, so mend or take out those that stage=validate lists"
        )
    if config.stage == "init_model" and config.model.tiny is None:
        wrong.append("stage=init_model needs model.tiny (its sizes): model=tiny")
    if config.export is not None and "query" not in config.export.prompts:
        wrong.append(
            "export.prompts.query is not set; it is the instruction of all queries, or null"
        )
    for name, entry in (config.benchmark.sets if config.benchmark else {}).items():
        if entry.relevant < 1:
            wrong.append(f"benchmark.sets.{name}.relevant={entry.relevant} must be 1 or more")
    return wrong


def _check_simulate(simulate: SimulateConfig) -> list[str]:
    wrong = []
    if len(set(simulate.seeds)) < 2:
        wrong.append(
            f"simulate.seeds={simulate.seeds} must be two different seeds or more: "
            "one shows nothing of the noise"
        )
    if simulate.proxy_noise < 0:
        wrong.append(f"simulate.proxy_noise={simulate.proxy_noise} must be 0 or more")
    return wrong


def _check_tdro(config: Config, module: TDROConfig) -> list[str]:
    wrong = []
    count = len(config.domains.only or config.domains.catalogue)
    if config.data.batch_size < count:
        wrong.append(
            f"data.batch_size={config.data.batch_size} must be at least the number of "
            f"domains, {count}: tDRO compares all of them at every step"
        )
    wrong += _check_update(module)
    if config.data.negatives < 1:
        wrong.append("data.negatives must be 1 or more: tDRO uses hard negatives only")
    if module.reference is None and module.measurement != "plain":
        wrong.append(
            f"module.measurement={module.measurement} needs module.reference=FOLDER, "
            "the `encoder` folder of a run with uniform weights"
        )
    return wrong


def _check_mine(mine: MineConfig) -> list[str]:
    wrong = []
    try:
        mining_rule(mine)
    except ConfigError as error:
        wrong.append(str(error))
    if mine.index == "ivf" and mine.encoder is None:
        wrong.append("mine.index=ivf needs an encoder: mine.encoder=FOLDER or a hub name")
    return wrong


def mining_rule(mine: MineConfig) -> MiningRule:
    """Rank window and score limits.

    Raises:
        ConfigError: values that do not fit together.
    """
    return MiningRule(
        mine.negatives, mine.depth, mine.skip, mine.margin, mine.ratio, mine.max_score
    )


def _check_update(module: TDROConfig) -> list[str]:
    """What the update of the domain weights cannot be."""
    allowed = {
        "weights_lr": (module.weights_lr > 0, "above 0"),
        "reference_floor": (module.reference_floor >= 0, "0 or more"),
        "smoothing": (0 <= module.smoothing < 1, "in [0, 1)"),
        "ema": (0 < module.ema <= 1, "in (0, 1]"),
    }
    return [
        f"module.{key}={getattr(module, key)} must be {what}"
        for key, (fits, what) in allowed.items()
        if not fits
    ]


def _check_source(source: SourceConfig) -> list[str]:
    whole_catalogue = source.layout == "tdro" and source.path is None and source.name is None
    if whole_catalogue:
        return []
    wrong = [
        f"source.{key} is not set; stage=import needs {what}: source.{key}=..."
        for key, what in {
            "path": "a file, a folder or a hub dataset",
            "name": "the domain's name",
            "prompts": "a list of query instructions",
        }.items()
        if not getattr(source, key)
    ]
    if source.name and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", source.name, flags=re.ASCII):
        wrong.append(f"source.name={source.name!r} must be letters, digits, `_`, `.` and `-`")
    if source.corpus is not None and source.layout != "tevatron":
        wrong.append(f"source.corpus is for source.layout=tevatron, not {source.layout}")
    if source.columns is not None:
        wrong += _check_columns(source.layout, source.columns)
    return wrong


def _check_columns(layout: str, columns: dict[str, str]) -> list[str]:
    wrong = []
    if layout != "sentence_transformers":
        wrong.append(f"source.columns is for source.layout=sentence_transformers, not {layout}")
    wrong += [
        f"source.columns.{role}: must be {', '.join(imports.ROLES)}, negative, negative_1, ..."
        for role in columns
        if role not in imports.ROLES and not re.fullmatch(r"negative(_\d+)?", role, re.ASCII)
    ]
    wrong += [
        f"source.columns.{role} is not set; it is the column of the {role}"
        for role in ("query", "positive")
        if not columns.get(role)
    ]
    wrong += [
        f"source.columns: the column {column!r} has {count} roles, and must have one"
        for column, count in Counter(columns.values()).items()
        if count > 1
    ]
    return wrong


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value
