"""Stage `import`: training data of other projects as our rows, with where they come from."""

import re
from collections import Counter

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.data import imports
from tdro_lightning.runs.inputs import domain_paths
from tdro_lightning.stages import require


def _run(config: Config) -> None:
    from tdro_lightning.assembly.import_rows import import_configured

    import_configured(config, require(config.source))


def _inputs(config: Config) -> dict[str, Input]:
    source = require(config.source)
    if source.path is None:
        return {**domain_paths(config)}
    paths = {"source": source.path, "source corpus": source.corpus}
    return {label: path for label, path in paths.items() if path is not None}


def _rules(config: Config) -> list[str]:
    source = require(config.source)
    if source.layout == "tdro" and source.path is None and source.name is None:
        return []  # the whole catalogue
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
        wrong += _column_rules(source.layout, source.columns)
    return wrong


def _column_rules(layout: str, columns: dict[str, str]) -> list[str]:
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


STAGE = Stage(
    name="import",
    run=_run,
    section="source",
    settings=lambda config: ("source",),
    inputs=_inputs,
    outputs=("train", "dropped", "conf"),
    rules=_rules,
    replaces_own=True,
)
