"""Stage `mine`: hard negatives for every domain file of a folder."""

from pathlib import Path

from tdro_lightning.config.constraints import mining_rule, whole_rows
from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.data.domain_files import domain_files
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.stages import require


def _run(config: Config) -> None:
    from tdro_lightning.assembly.mine import mine

    mine(config, require(config.mine))


def _settings(config: Config) -> tuple[str, ...]:
    return ("mine", "model", "data", "domains") if _models(config) else ("mine",)


def _inputs(config: Config) -> dict[str, Input]:
    mine = require(config.mine)
    if not Path(mine.input).is_dir():
        raise DataError(f"mine.input={mine.input}: no such folder")
    if mine.corpus is not None and not Path(mine.corpus).is_file():
        raise DataError(f"mine.corpus={mine.corpus}: no such file")
    rows = {f"rows {p.name}": str(p) for p in domain_files(Path(mine.input)).values()}
    others = {"corpus": mine.corpus, "encoder": mine.encoder, "encoder teacher": mine.teacher}
    return {**rows, **{label: path for label, path in others.items() if path is not None}}


def _rules(config: Config) -> list[str]:
    mine, wrong = require(config.mine), whole_rows(config)
    try:
        mining_rule(mine)
    except ConfigError as error:
        wrong.append(str(error))
    if mine.index == "ivf" and mine.encoder is None:
        wrong.append("mine.index=ivf needs an encoder: mine.encoder=FOLDER or a hub name")
    return wrong


def _models(config: Config) -> list[str]:
    mine = require(config.mine)
    return [path for path in (mine.encoder, mine.teacher) if path is not None]


STAGE = Stage(
    name="mine",
    run=_run,
    section="mine",
    settings=_settings,
    inputs=_inputs,
    outputs=("train", "domains", "mining.json"),
    rules=_rules,
    models=_models,
    all_processes=True,
    replaces_own=True,
)
