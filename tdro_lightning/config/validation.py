"""From a composed configuration to checked dataclasses, or one message that says what is wrong."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from tdro_lightning.config.constraints import require_fitting
from tdro_lightning.config.keys import split_label
from tdro_lightning.config.safety import leaves, refuse_code, refuse_secrets
from tdro_lightning.config.schema import MODULES, Config, expand_steps
from tdro_lightning.config.stage import Stage
from tdro_lightning.errors import ConfigError, did_you_mean
from tdro_lightning.models.model_files import refuse_model_code


def validate(composed: DictConfig, stages: Mapping[str, Stage]) -> Config:
    """The composed configuration as plain dataclasses.

    Args:
        composed: by Hydra.
        stages: every stage by its name.

    Raises:
        ConfigError: an unknown, missing or ill-typed key, or values that do not fit together.
    """
    kind = OmegaConf.select(composed, "module.kind")
    if kind is not None and kind not in MODULES:
        raise ConfigError(f"module.kind={kind!r} is unknown; allowed are {', '.join(MODULES)}")
    schema = OmegaConf.structured(Config)
    if kind is not None:
        schema.module = OmegaConf.structured(MODULES[kind])
    try:
        _list_single_texts(composed)
        merged = OmegaConf.merge(schema, composed)
        OmegaConf.resolve(merged)
        missing = sorted(OmegaConf.missing_keys(merged))
        _refuse_split_labels(OmegaConf.to_container(merged), Config, "")
        if missing == ["module.reference"] and merged.stage == "plan":
            merged.module.reference = "any"  # a plan counts a reference and reads none
            missing = []
        if missing:
            raise ConfigError(f"{missing[0]} is not set; give it a value: {missing[0]}=...")
        tree = OmegaConf.to_container(merged)
        refuse_code(tree)
        refuse_secrets(tree)
        config = OmegaConf.to_object(merged)
    except InterpolationResolutionError as error:
        cause = error.__cause__ or error
        key = error.full_key or _unresolved(merged)
        raise ConfigError(f"{key}: {str(cause).splitlines()[0]}") from None
    except ConfigKeyError as error:
        raise ConfigError(unknown_key(str(error.full_key))) from None
    except (ValidationError, MissingMandatoryValue) as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    assert isinstance(config, Config)
    require_fitting(config, stages)
    if config.chain is not None:
        config.chain.steps, config.chain.for_each = expand_steps(config.chain), {}
    for path in stages[config.stage].models(config):
        if Path(path).is_dir():  # a hub name's files are looked at when it is loaded
            refuse_model_code(path)
    return config


def _refuse_split_labels(value: Any, hint: Any, name: str) -> None:
    """Refuse a table where a table's label must have a plain value, before what it hides is missed.

    Raises:
        ConfigError: names the label, and how to write it.
    """
    if not isinstance(value, dict):
        return
    for kind in (hint, *get_args(hint)):
        if is_dataclass(kind):
            for key, own in get_type_hints(kind).items():
                _refuse_split_labels(value.get(key), own, f"{name}.{key}".lstrip("."))
        elif get_origin(kind) is dict:
            inner = get_args(kind)[1]
            for label, one in value.items():
                if isinstance(one, dict) and inner in (str, int, float, bool):
                    raise ConfigError(split_label(f"{name}.{label}", one))
                _refuse_split_labels(one, inner, f"{name}.{label}")


def _list_single_texts(composed: DictConfig) -> None:
    """Write a single prompt or baseline as a list of one, which they are everywhere else."""
    if isinstance(baseline := OmegaConf.select(composed, "report.baselines"), str):
        composed.report.baselines = [baseline]
    catalogue = OmegaConf.select(composed, "domains.catalogue")
    entries = catalogue.values() if isinstance(catalogue, DictConfig) else []
    for section in (OmegaConf.select(composed, "source"), *entries):
        if isinstance(section, DictConfig) and isinstance(section.get("prompts"), str):
            section.prompts = [section.prompts]


def _unresolved(merged: Any) -> str:
    """The first key whose value refers to something that is not there."""
    for key, value in leaves(OmegaConf.to_container(merged, resolve=False)):
        try:
            if isinstance(value, str) and "${" in value:
                OmegaConf.select(merged, key)
        except InterpolationResolutionError:
            return key
    return "the configuration"


def unknown_key(key: str) -> str:
    """The message for a key that no dataclass here has, with the nearest one that exists."""
    if key == "experiment":  # where Hydra puts a file that does not say where it belongs
        return "the experiment file must begin with the line `# @package _global_`"
    *parents, last = key.split(".")
    sections: list[Any] = [Config]
    for part in parents:
        kinds = [hint for s in sections for hint in _kinds(s, part)]
        sections = [kind for kind in kinds if is_dataclass(kind)]
    known = _names(sections)
    if parents and last in known:
        section = ".".join(parents)
        if section == "module":
            having = [name for name, kind in MODULES.items() if last in _names([kind])]
            return f"{key} cannot be set: it is of module={', '.join(having)}, not of this one"
        return f"{key} cannot be set: the section `{section}` is not in use in this experiment"
    hint = did_you_mean(last, known, ".".join([*parents, ""]))
    return f"unknown key {key}{hint or '.'} Known here: {', '.join(known) or 'none'}"


def _names(sections: Sequence[Any]) -> list[str]:
    return sorted({f.name for s in sections for f in fields(s)})


def _kinds(section: Any, key: str) -> list[Any]:
    """The classes a key of a section may hold."""
    if section is Config and key == "module":
        return list(MODULES.values())
    hint = get_type_hints(section).get(key)
    return [hint, *get_args(hint)]


def package_folder(package: str, folder: str) -> str:
    """Folder of data inside an installed package, without importing it.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"package {package} is not installed; pip install 'tdro-lightning[pretrained]'"
        )
    return str(Path(spec.submodule_search_locations[0]) / folder)
