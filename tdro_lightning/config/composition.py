"""Everything that Hydra composes is checked before anything is built of it or written down.

Hydra builds callbacks, loggers and launchers itself, before a job starts, and writes the composed
configuration beside the results; no public hook runs before that. So a private method of its config
loader is replaced, here only. Importing this module does it, also in the processes that a launcher
starts. All else that needs Hydra's internals is here too.
"""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import MarkedYAMLError, YAMLError

from tdro_lightning.config.safety import (
    refuse_code,
    refuse_environment,
    refuse_long_folder,
    refuse_secrets,
    require_path,
)
from tdro_lightning.config.shipped import (
    conf_folder,
    unknown_experiment,
    unknown_option,
)
from tdro_lightning.config.validation import unknown_key
from tdro_lightning.errors import ConfigError
from tdro_lightning.secrets import mask_output

_compose = ConfigLoaderImpl._load_configuration_impl


def _compose_and_check(
    self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *args: Any, **more: Any
) -> DictConfig:
    try:
        composed = _compose(self, config_name, overrides, *args, **more)
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        reason = explain(error, overrides)
        if reason is None:
            raise
        raise ConfigError(reason) from None
    tree = OmegaConf.to_container(composed, resolve=False, throw_on_missing=False)
    refuse_code(tree)
    refuse_secrets(tree)
    refuse_environment(tree)
    refuse_long_folder(tree)
    return composed


def explain(error: Exception, overrides: Sequence[str]) -> str | None:
    """What is wrong with a file or an override that cannot be used, in one line.

    Args:
        error: what Hydra, OmegaConf or the YAML reader raised.
        overrides: those of the composition.

    Returns:
        The line; None for an error of the system.
    """
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark
        place = f"{mark.name}:{mark.line + 1}" if mark else "a configuration file"
        return f"{place}: not valid YAML ({error.problem})"
    if isinstance(error, YAMLError):
        return f"a configuration file is not valid YAML ({' '.join(str(error).split())})"
    if isinstance(error, UnicodeDecodeError):
        return f"a configuration file is not UTF-8 ({error})"
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    text = str(error).strip()
    if "Invalid loaded object type" in text:
        return "a configuration file must hold keys and values"
    if "Config group override must be a string" in text:
        nulls = [o.removesuffix("=null") for o in overrides if re.fullmatch(r"\w+=null", o)]
        return f"a group cannot be null; write {' '.join(f'~{name}' for name in nulls)}"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    if ambiguous := re.match(r"Ambiguous value for argument '(.*)'$", text, re.MULTILINE):
        key, _, value = ambiguous[1].partition("=")
        return (
            f"{key}: a comma outside of quotes; for one text write {_quote(key, value)}, for a "
            f"list {shlex.quote(f'{key}=[{value}]')}, and for a run of each value add -m"
        )
    experiments = [o.partition("=")[2] for o in overrides if o.startswith("+experiment=")]
    missing = re.search(r"Could not find '(\w+)/([^']+)'", text)
    if missing and missing[1] == "experiment" and missing[2] in experiments:
        return unknown_experiment(missing[2])
    if missing and (conf_folder() / missing[1]).is_dir():
        return unknown_option(*missing.groups())
    key = re.match(r"Could not override '([\w.]+)'", text)
    entry = str(getattr(error.__cause__, "full_key", ""))
    if key and entry.startswith(f"{key[1]}."):  # a table with a label that it does not have yet
        own = shlex.quote(f"+{next(o for o in overrides if o.startswith(f'{key[1]}='))}")
        return f"{key[1]} has no {entry.removeprefix(f'{key[1]}.')}; to add it, write {own}"
    lines = text.splitlines()
    return unknown_key(key[1]) if key else " ".join(lines[: 2 if lines[0].endswith(":") else 1])


def split_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a sweep, in the order of the jobs."""
    parsed = OverridesParser.create().parse_overrides([*overrides])
    return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def _unreadable(override: str) -> str:
    """The message for an override that Hydra's grammar does not read, and how to quote it."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override}: is not understood; a setting is written key=value"
    return f"{key}: the value {value!r} cannot be read as it is; quote it: {_quote(key, value)}"


def _quote(key: str, value: str) -> str:
    """An override as one types it in a shell, whose value is a text as it stands."""
    text = re.sub(r'(\\*)"', r'\1\1\\"', value)
    text = re.sub(r"(\\+)$", r"\1\1", text)  # before the closing quote
    return shlex.quote(f'{key}="{text}"')


def _environment(name: str, *default: Any, _node_: Node) -> str | None:
    """`${oc.env:NAME,DEFAULT}`, however it is written, in keys that hold a path only."""
    value = oc.env(name, *default)
    require_path(str(_node_._get_full_key(None)), str(_node_._value()), name, value)
    return value


ConfigLoaderImpl._load_configuration_impl = _compose_and_check  # type: ignore[method-assign]
OmegaConf.register_new_resolver("oc.env", _environment, replace=True)
mask_output()
