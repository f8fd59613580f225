"""What a configuration may not hold: code to run, secrets, and names that lead out of a folder.

Configurations are handed around, so one is read like a stranger's: it names values, never code.
"""

import re
from collections.abc import Iterator
from typing import Any

from tdro_lightning.errors import ConfigError

TARGETS = {  # all that a composed configuration may have built, and where
    "hydra.launcher._target_": (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    ),
    "hydra.sweeper._target_": ("hydra._internal.core_plugins.basic_sweeper.BasicSweeper",),
    "hydra.callbacks.plan._target_": ("tdro_lightning.sweeps.Plan",),
}
LOGGING = {  # in the logging sections, whose values Python can call as well
    "class": ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler"),
    "()": ("colorlog.ColoredFormatter",),
}
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows

_SECRET_KEY = re.compile(
    r"(^|[_-])(api[_-]?keys?|(secret|private|access)[_-]?keys?|secrets?|passwords?|passwd"
    r"|credentials?|bearer|auth)$|(^|[_-])token$",
    re.IGNORECASE,
)
_NO_SECRET_KEY = re.compile(r"(^|_)(pad|eos|bos|unk|sep|cls|mask|image)_token$", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|\bghp_[A-Za-z0-9]{16,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_HEX_KEY = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{40}(?![0-9a-fA-F])")  # as a tracker's key is
_COMMIT_KEYS = ("revision", "commit", "git_commit", "sha")
_GIVEN = re.compile(r"""([\w.-]*)(\s*=\s*|['"]?:\s*['"])([^\s'",}\]]+)""")


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
    # Hydra repeats in its own section what was overridden, so that is looked at last.
    found = sorted(leaves(tree, place), key=lambda leaf: leaf[0].startswith("hydra."))
    for key, value in found:
        if not isinstance(value, str):
            continue
        name = key.rpartition(".")[2]
        given = [(name, value), *((m[1].rpartition(".")[2], m[3]) for m in _GIVEN.finditer(value))]
        if any(_is_secret(*one) for one in given):
            raise ConfigError(
                f"{key}: looks like a secret, and configurations are written to disk; take it out "
                "and use the environment (HF_TOKEN, WANDB_API_KEY) or the vendor's login command"
            )


def _is_secret(name: str, value: str) -> bool:
    if value in ("", "null", "???") or _SECRET_KEY.search(name) is None:
        hexadecimal = _HEX_KEY.search(value) and name not in _COMMIT_KEYS and "/" not in value
        return bool(_SECRET_TEXT.search(value) or hexadecimal)
    return _NO_SECRET_KEY.search(name) is None


def masked(text: str) -> str:
    """A text for the terminal or a file, without what looks like a secret in it."""

    def hidden(found: re.Match[str]) -> str:
        name = found[1].rpartition(".")[2]
        is_key = _SECRET_KEY.search(name) and not _NO_SECRET_KEY.search(name)
        return f"{found[1]}{found[2]}***" if is_key else found[0]

    return _SECRET_TEXT.sub("***", _GIVEN.sub(hidden, text))


def refuse_unsafe_name(key: str, name: str) -> str | None:
    """What is wrong with a name that becomes part of a file's name, None where nothing is."""
    if NAME.fullmatch(name) and not RESERVED.fullmatch(name) and not name.endswith("."):
        return None
    shown = name if len(name) <= 60 else f"{name[:60]}..."
    return (
        f"{key}: the name {shown!r} becomes a file's name; it must be 1 to 80 letters (A-Z, a-z), "
        "digits, `.`, `_` and `-`, and begin with a letter or digit"
    )


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
