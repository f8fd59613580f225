"""The stages of an experiment; they meet in files only. Each module here exports its `STAGE`."""

import pkgutil
from functools import cache
from importlib import import_module
from typing import TypeVar

from omegaconf import DictConfig

from tdro_lightning.config import validation
from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Stage

T = TypeVar("T")


@cache
def stages() -> dict[str, Stage]:
    """Every stage by its name."""
    modules = (import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    return {stage.name: stage for stage in (module.STAGE for module in modules)}


def check_config(composed: DictConfig) -> Config:
    """The composed configuration as plain dataclasses, checked for its stage too.

    Raises:
        ConfigError: an unknown, missing or ill-typed key, or values that do not fit together.
    """
    return validation.validate(composed, stages())


def require(section: T | None) -> T:
    """A section of the configuration that the check of the stage has found to be there."""
    assert section is not None
    return section
