"""The whole check of a configuration, and rules that several stages share."""

from collections.abc import Mapping

from tdro_lightning.config.keys import Limits, find_faults
from tdro_lightning.config.schema import Config, MineConfig
from tdro_lightning.config.stage import Stage
from tdro_lightning.errors import ConfigError
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
