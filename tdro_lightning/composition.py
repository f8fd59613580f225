"""Everything that Hydra composes is checked before anything is built of it or written down.

Hydra builds callbacks, loggers and launchers itself, before a job starts, and writes the composed
configuration beside the results. So the check stands where configurations come from; importing
this module puts it there, also in the processes that a launcher starts.
"""

from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

from tdro_lightning.trust import refuse_code, refuse_secrets

_compose = ConfigLoaderImpl._load_configuration_impl


def _composed_and_checked(self: ConfigLoaderImpl, *args: Any, **kwargs: Any) -> DictConfig:
    composed = _compose(self, *args, **kwargs)
    tree = OmegaConf.to_container(composed, resolve=False, throw_on_missing=False)
    refuse_code(tree)
    refuse_secrets(tree)
    return composed


ConfigLoaderImpl._load_configuration_impl = _composed_and_checked  # type: ignore[method-assign]
