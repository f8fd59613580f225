"""What a configuration may not hold: code to run, secrets, and names that lead out of a folder.

Configurations are handed around, so one is read like a stranger's: it names values, never code.
Secrets are refused where they come in.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from tdro_lightning.errors import ConfigError
from tdro_lightning.secrets import (
    GIVEN,
    SECRET_VARIABLE,
    environment_secrets,
    is_secret,
    mask_secrets,
)

TARGETS = {  # all that a composed configuration may have built, and where
    "hydra.launcher._target_": (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    ),
    "hydra.sweeper._target_": ("hydra._internal.core_plugins.basic_sweeper.BasicSweeper",),
    "hydra.callbacks.plan._target_": ("tdro_lightning.runs.sweeps.Plan",),
}
LOGGING = {  # in the logging sections, whose values Python can call as well
    "class": ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler"),
    "()": ("colorlog.ColoredFormatter",),
}
LONGEST_NAME = 255  # bytes of a file's name
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows
PATH_KEYS = (  # the only ones that may read the environment: `${oc.env:NAME}`
    *("run_dir", "chain_dir", "chain.source", "model.path", "domains.root", "domains.hub"),
    *("benchmark.root", "benchmark.sets.*.folder", "module.reference", "module.reference_cache"),
    *("transfer.weights", "validation.folder", "evaluate.encoders.*", "evaluate.embeddings"),
    *("source.path", "source.corpus", "mine.input", "mine.corpus", "mine.encoder"),
    *("mine.teacher", "report.runs", "export.encoder", "export.base", "export.metrics"),
    *("hydra.run.dir", "hydra.sweep.dir", "hydra.searchpath"),
)
_ENVIRONMENT = re.compile(r"\$\{[^}]*?oc\.env\s*:\s*['\"]?([^\s,}'\"$]*)")


def refuse_code(tree: Any, place: str = "") -> None:
    """Refuse a composed configuration that names code to run; it is not resolved for this.

    Raises:
        ConfigError: names the key.
    """
    for key, value in leaves(tree, place):
        name = key.rpartition(".")[2]
        if name in ("_target_", "_partial_", "_args_") and value not in TARGETS.get(key, ()):
            raise ConfigError(f"{key}: a configuration names no code to run; leave `{name}` out")
        if key.startswith(("hydra.callbacks", "hydra.job.env_set")) and key not in TARGETS:
            raise ConfigError(f"{key}: is not allowed here: it would change what the program runs")
        if key.startswith(("hydra.job_logging.", "hydra.hydra_logging.")):
            _refuse_calls(key, name, value)


def _refuse_calls(key: str, name: str, value: Any) -> None:
    """In a logging section, only the handlers and streams that write to a file or the terminal."""
    allowed = LOGGING.get(name)
    stream = isinstance(value, str) and "://" in value and value not in STREAMS
    dynamic = isinstance(value, str) and "${" in value and name not in ("filename", "level")
    if (allowed is not None and value not in allowed) or stream or dynamic:
        raise ConfigError(f"{key}={value!r} is not allowed: a log goes to a file or the terminal")


def refuse_secrets(tree: Any, place: str = "") -> None:
    """Refuse passwords and keys: the configuration is written to disk, and sent to trackers.

    Raises:
        ConfigError: names the key, and does not show the value.
    """
    here = environment_secrets()
    for key, value in _hydra_last(tree, place):
        texts = [("", key), *(("", part) for part in key.split("."))]
        texts += [(key.rpartition(".")[2], value)] if isinstance(value, str) else []
        for _, text in texts.copy():
            texts += [(m[1].rpartition(".")[2], m[3]) for m in GIVEN.finditer(text)]
        if any(is_secret(name, text, here) for name, text in texts):
            parts = key.split(".")
            shown = ".".join("***" if is_secret("", part, here) else part for part in parts)
            raise ConfigError(
                f"{mask_secrets(shown)}: looks like a secret, and configurations are written to "
                "disk; take it out and use the environment (HF_TOKEN, WANDB_API_KEY) or the "
                "vendor's login command"
            )


def refuse_environment(tree: Any) -> None:
    """Refuse a composed, unresolved configuration that reads secrets from the environment.

    Raises:
        ConfigError: names the key, and does not show the value.
    """
    for key, value in _hydra_last(tree):
        if isinstance(value, str) and key != "hydra.job.override_dirname":  # made of overrides
            for found in _ENVIRONMENT.finditer(value):
                require_path(key, value, found[1], os.environ.get(found[1]))


def require_path(key: str, text: str, name: str, value: str | None) -> None:
    """Refuse to put the value of an environment variable where it is no path.

    Args:
        key: where `${oc.env:...}` stands.
        text: the whole value of the key; in a list of overrides it names the key that it sets.
        name: the variable, empty where it is not known yet.
        value: its value, None where there is none.

    Raises:
        ConfigError: names the key, and does not show the value.
    """
    bare = re.sub(r"\[\d+\]", "", key).removeprefix("hydra.sweeper.params.")
    if bare.startswith(("chain.overrides", "chain.steps.", "chain.for_each.", "hydra.overrides.")):
        bare = text.lstrip("+~").partition("=")[0]
    wrong = None
    if not any(fnmatchcase(bare, allowed) for allowed in PATH_KEYS):
        wrong = f"is for keys that hold a path, as {', '.join(PATH_KEYS[:6])}; not for this one"
    elif SECRET_VARIABLE.search(name):
        wrong = f"is not for {name}, which is named like a secret"
    elif value is not None and not ("/" in value or os.path.exists(value)):
        wrong = f"is for paths; the value of {name} is none, and is not shown"
    elif value is not None and is_secret("", value, environment_secrets()):
        wrong = f"is not for {name}, whose value looks like a secret"
    if wrong is not None:
        raise ConfigError(f"{mask_secrets(key)}: `${{oc.env:...}}` {wrong}")


def refuse_secret_arguments(arguments: list[str]) -> None:
    """Refuse passwords and keys on the command line, which is written to disk as it is.

    Raises:
        ConfigError: names the key, and does not show the value.
    """
    for argument in arguments:
        key, given, value = argument.partition("=")
        refuse_secrets({key.lstrip("+~"): value} if given else {"the command line": argument})


def _hydra_last(tree: Any, place: str = "") -> list[tuple[str, Any]]:
    """The leaves; Hydra repeats in its own section what was overridden, so that comes last."""
    return sorted(leaves(tree, place), key=lambda leaf: leaf[0].startswith("hydra."))


def refuse_unsafe_name(key: str, name: str) -> str | None:
    """What is wrong with a name that becomes part of a file's name, None where nothing is."""
    if NAME.fullmatch(name) and not RESERVED.fullmatch(name) and not name.endswith("."):
        return None
    shown = name if len(name) <= 60 else f"{name[:60]}..."
    return (
        f"{key}: the name {shown!r} becomes a file's name; it must be 1 to 80 letters (A-Z, a-z), "
        "digits, `.`, `_` and `-`, and begin with a letter or digit"
    )


def refuse_long_folder(tree: Any) -> None:
    """Refuse a run folder with a name that no file system takes, before Hydra makes it.

    Raises:
        ConfigError: names the key.
    """
    for key in ("run_dir", "name"):
        part = max(str(tree.get(key, "")).split("/"), key=lambda part: len(os.fsencode(part)))
        if (size := len(os.fsencode(part))) > LONGEST_NAME:
            raise ConfigError(
                f"{key}: the name {part[:60]!r}... has {size} bytes; a file system takes "
                f"{LONGEST_NAME} at most"
            )


def find_unsafe_names(key: str, names: list[str]) -> list[str]:
    """What is wrong with names that become files' names, each by itself and together."""
    wrong = [fault for name in names if (fault := refuse_unsafe_name(key, name))]
    counts = Counter(name.lower() for name in names)
    return wrong + [
        f"{key}: duplicate name {name!r}, as file systems may not tell upper from lower case"
        for name, count in counts.items()
        if count > 1
    ]


def leaves(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Full key and value of every leaf; an empty container is none."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{place}.{key}" if place else str(key))
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{place}[{i}]")
    else:
        yield place, tree
