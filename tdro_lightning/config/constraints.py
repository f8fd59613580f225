"""The whole check of a configuration, and rules that several stages share."""

import re
from collections.abc import Mapping

from tdro_lightning.config.groups import domain_groups
from tdro_lightning.config.keys import Limits, find_faults
from tdro_lightning.config.schema import Config, MineConfig
from tdro_lightning.config.stage import Stage
from tdro_lightning.dro.transfer import RULES
from tdro_lightning.errors import ConfigError, did_you_mean
from tdro_lightning.mining.rule import MiningRule


def require_fitting(config: Config, stages: Mapping[str, Stage]) -> None:
    """Refuse values outside their limits, then values that do not fit together.

    Raises:
        ConfigError: names every one of them.
    """
    if wrong := find_faults(config) or _stage_faults(config, stages):
        raise ConfigError("\n".join(wrong))


def _stage_faults(config: Config, stages: Mapping[str, Stage]) -> list[str]:
    """The rules of the stage, once the section that it needs is there."""
    stage = stages.get(config.stage)
    if stage is None:
        return [
            f"stage={config.stage!r} must be {Limits(choices=tuple(stages)).fault(config.stage)}"
        ]
    if stage.section is not None and getattr(config, stage.section) is None:
        return [f"stage={config.stage} needs the section `{stage.section}`"]
    return stage.rules(config)


def benchmark_is_set(config: Config) -> list[str]:
    """A rule of stages that read evaluation sets."""
    if config.benchmark is not None:
        return []
    return [f"stage={config.stage} needs a benchmark: benchmark=NAME"]


def fusion_rules(config: Config) -> list[str]:
    """Fusions have labels of their own, and are of retrievers that are evaluated."""
    assert config.evaluate is not None
    known = [*(["bm25"] if config.evaluate.bm25 else []), *config.evaluate.encoders]
    wrong = []
    for label, fusion in config.evaluate.fusions.items():
        place = f"evaluate.fusions.{label}"
        if label in known:
            wrong.append(f"{place}: a retriever has this label too; take another")
        for name in fusion.of:
            # `LABEL (64)` is the prefix of vectors, of which only the encoder knows.
            if {name, re.sub(r" \(\d+\)$", "", name)}.isdisjoint(known):
                hint = did_you_mean(name, known) or f"; there are {', '.join(known) or 'none'}"
                wrong.append(f"{place}.of: {name!r} is no evaluated retriever{hint}")
    return wrong


def whole_rows(config: Config) -> list[str]:
    """A rule of stages that end at a bad row."""
    if config.data.on_bad_row != "skip":
        return []
    return [
        f"data.on_bad_row=skip is for training and stage=validate; stage={config.stage} ends "
        "at a bad row, so correct or take out those that stage=validate lists"
    ]


def mining_rule(mine: MineConfig) -> MiningRule:
    """Rank window and score limits.

    Raises:
        ConfigError: values that do not fit together.
    """
    return MiningRule(
        mine.negatives, mine.depth, mine.skip, mine.margin, mine.ratio, mine.max_score
    )


def mixture_rules(config: Config) -> list[str]:
    """Weights where the rule needs them, and bounds on domains and groups that are there."""
    wrong, transfer = [], config.transfer
    sources = [key for key in ("weights", "given") if getattr(transfer, key) is not None]
    if RULES[transfer.rule].weighted and len(sources) != 1:
        wrong.append(
            f"transfer.rule={transfer.rule} needs transfer.weights=PATH, the weights.json of a "
            "tDRO run, or transfer.given={NAME: WEIGHT, ...}, and not both"
        )
    groups = domain_groups(config)
    single = [label for label, names in groups.items() if names == (label,)]
    for key, known in (("keep", single), ("drop", single), ("least", groups), ("most", groups)):
        for label in getattr(transfer, key) or ():
            if label not in known:
                hint = did_you_mean(label, known)
                wrong.append(f"transfer.{key}: {label!r} is no configured domain or group{hint}")
    if both := sorted(set(transfer.keep) & set(transfer.drop)):
        wrong.append(f"transfer.keep and transfer.drop both name {', '.join(both)}")
    return wrong
