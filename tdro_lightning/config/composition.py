"""Everything that Hydra composes is checked before anything is built of it or written down.

Hydra builds callbacks, loggers and launchers itself, before a job starts, and writes the composed
configuration beside the results. So the check stands where configurations come from; importing
this module puts it there, also in the processes that a launcher starts.
"""

from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.resolvers import oc

from tdro_lightning.config.safety import (
    refuse_code,
    refuse_environment,
    refuse_secrets,
    require_path,
)
from tdro_lightning.secrets import mask_output

_compose = ConfigLoaderImpl._load_configuration_impl


def _composed_and_checked(self: ConfigLoaderImpl, *args: Any, **kwargs: Any) -> DictConfig:
    composed = _compose(self, *args, **kwargs)
    tree = OmegaConf.to_container(composed, resolve=False, throw_on_missing=False)
    refuse_code(tree)
    refuse_secrets(tree)
    refuse_environment(tree)
    return composed


def _environment(name: str, *default: Any, _node_: Node) -> str | None:
    """`${oc.env:NAME,DEFAULT}`, however it is written, in keys that hold a path only."""
    value = oc.env(name, *default)
    require_path(str(_node_._get_full_key(None)), str(_node_._value()), name, value)
    return value


ConfigLoaderImpl._load_configuration_impl = _composed_and_checked  # type: ignore[method-assign]
OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
mask_output()
