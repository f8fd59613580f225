"""Stage `mine`: hard negatives for every domain file of a folder."""

from pathlib import Path

from tdro_lightning.config.constraints import mining_rule, whole_rows
from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.data.domain_files import domain_files
from tdro_lightning.errors import ConfigError, DataError


def _run(config: Config) -> None:
    from tdro_lightning.assembly.mine import mine

    mine(config)


def _settings(config: Config) -> tuple[str, ...]:
    assert config.mine is not None
    with_model = config.mine.encoder is not None or config.mine.teacher is not None
    return ("mine", "model", "data", "domains") if with_model else ("mine",)


def _inputs(config: Config) -> dict[str, Input]:
    assert config.mine is not None
    mine, folder = config.mine, Path(config.mine.input)
    if not folder.is_dir():
        raise DataError(f"mine.input={folder}: no such folder")
    paths: dict[str, Input] = {f"rows {p.name}": str(p) for p in domain_files(folder).values()}
    if mine.corpus is not None:
        if not Path(mine.corpus).is_file():
            raise DataError(f"mine.corpus={mine.corpus}: no such file")
        paths["corpus"] = mine.corpus
    models = {"encoder": mine.encoder, "encoder teacher": mine.teacher}
    return paths | {label: path for label, path in models.items() if path is not None}


def _rules(config: Config) -> list[str]:
    assert config.mine is not None
    wrong = whole_rows(config)
    try:
        mining_rule(config.mine)
    except ConfigError as error:
        wrong.append(str(error))
    if config.mine.index == "ivf" and config.mine.encoder is None:
        wrong.append("mine.index=ivf needs an encoder: mine.encoder=FOLDER or a hub name")
    return wrong


def _models(config: Config) -> list[str]:
    assert config.mine is not None
    return [*filter(None, [config.mine.encoder, config.mine.teacher])]


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
