"""Which values the keys of a configuration may have, each by itself and together."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdro_lightning import evaluation
from tdro_lightning.config.safety import refuse_unsafe_name
from tdro_lightning.config.schema import Config, MineConfig, TDROConfig
from tdro_lightning.config.stage import Stage
from tdro_lightning.data import imports
from tdro_lightning.errors import ConfigError
from tdro_lightning.mining.rule import MiningRule

MOST_THREADS = 1024
CHOICES = {
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
    "benchmark.depth",
    "plan.mfu",
    "plan.tokens_per_second",
    "plan.price",
)


def require_fitting(config: Config, stages: Mapping[str, Stage]) -> None:
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
    if config.strategy.cpu_offload and config.strategy.kind != "fsdp":
        wrong.append(f"strategy.cpu_offload needs strategy=fsdp, not {config.strategy.kind}")
    wrong += _check_names(config)
    wrong += _check_sections(config)
    wrong += _check_stage(config, stages)
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


def _check_stage(config: Config, stages: Mapping[str, Stage]) -> list[str]:
    """The rules of the stage, once the section that it needs is there."""
    stage = stages.get(config.stage)
    if stage is None:
        return [f"stage={config.stage!r} must be one of {', '.join(stages)}"]
    if stage.section is not None and getattr(config, stage.section) is None:
        return [f"stage={config.stage} needs the section `{stage.section}`"]
    return stage.rules(config)


def _check_sections(config: Config) -> list[str]:
    """What sections cannot be, whichever stage runs."""
    wrong = []
    if isinstance(config.module, TDROConfig):
        wrong += _check_update(config.module)
    for name, entry in (config.benchmark.sets if config.benchmark else {}).items():
        if entry.relevant < 1:
            wrong.append(f"benchmark.sets.{name}.relevant={entry.relevant} must be 1 or more")
    return wrong


def benchmark_is_set(config: Config) -> list[str]:
    """A rule of stages that read evaluation sets."""
    if config.benchmark is not None:
        return []
    return [f"stage={config.stage} needs a benchmark: benchmark=NAME"]


def whole_rows(config: Config) -> list[str]:
    """A rule of stages that end at a bad row."""
    if config.data.on_bad_row != "skip":
        return []
    return [
        f"data.on_bad_row=skip is for training and stage=validate; stage={config.stage} ends "
        "at a bad row, so mend or take out those that stage=validate lists"
    ]


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


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value
