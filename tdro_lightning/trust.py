"""What a configuration may not hold: code to run, secrets, and names that lead out of a folder.

Configurations are handed around, so one is read like a stranger's: it names values, never code.
Secrets are refused where they come in, and masked in everything that is printed or logged.
"""

import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
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
PATH_KEYS = (  # the only ones that may read the environment: `${oc.env:NAME}`
    *("run_dir", "chain_dir", "chain.source", "model.path", "domains.root", "domains.hub"),
    *("benchmark.root", "benchmark.sets.*.folder", "module.reference", "module.reference_cache"),
    *("transfer.weights", "evaluate.encoders.*", "evaluate.embeddings", "source.path"),
    *("source.corpus", "mine.input", "mine.corpus", "mine.encoder", "mine.teacher"),
    *("report.runs", "export.encoder", "export.base", "export.metrics"),
    *("hydra.run.dir", "hydra.sweep.dir", "hydra.searchpath"),
)
SECRETS = {  # what secrets look like, by who gives them out
    "Hugging Face": r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}",
    "OpenAI and others": r"\bsk-(?:(?:proj|ant|or|svcacct|admin)-[\w-]{16,}|[A-Za-z0-9]{20,})",
    "GitHub": r"\b(?:gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{20,})",
    "GitLab": r"\bgl(?:pat|dt|rt|ptt|oas|cbt|ft|imt|agent|soat)-[\w-]{16,}",
    "Slack": r"\bx(?:ox[a-z](?:\.xox[a-z])?|app)-[\w-]{10,}",
    "a webhook": r"(?:hooks\.slack\.com|discord(?:app)?\.com/api/webhooks)/[\w/+-]{20,}",
    "W&B": r"\bwandb_v\d_\w{16,}",
    "AWS": r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
    "AWS, the key itself": (
        r"(?<![\w/+=.-])(?![/+])(?=\S{0,39}[A-Z])(?=\S{0,39}[a-z])(?=\S{0,37}\d\D\S{0,37}\d)"
        r"[A-Za-z0-9/+]{40}(?![\w/+=.-])"
    ),
    "Google": r"\b(?:AIza[\w-]{35}|ya29\.[\w-]{16,}|GOCSPX-[\w-]{16,})",
    "Azure": r"\b(?:Account|SharedAccess)Key=[A-Za-z0-9+/=]{20,}",
    "a JSON web token": r"\beyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]*)?",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY(?s:.*?)(?:-----END [A-Z ]*KEY-----|\Z)",
    "age": r"\bAGE-SECRET-KEY-1[A-Z0-9]{20,}",
    "Stripe": r"\b(?:(?:sk|rk)_(?:live|test)|whsec)_[A-Za-z0-9]{16,}",
    "SendGrid": r"\bSG\.[\w-]{16,}\.[\w-]{16,}",
    "Twilio": r"\bSK[0-9a-f]{32}\b",
    "npm, PyPI": r"\b(?:npm_[A-Za-z0-9]{30,}|pypi-AgE[\w-]{16,}|rubygems_[0-9a-f]{32,})",
    "DigitalOcean": r"\bdo[oprt]_v1_[0-9a-f]{32,}",
    "Databricks": r"\bdapi[0-9a-f]{32}",
    "Docker": r"\bdckr_[a-z]{2,4}_[\w-]{16,}",
    "Vault": r"\bhv[bsr]\.[\w-]{20,}",
    "other model providers": (
        r"\b(?:gsk_|xai-|pplx-|r8_|nvapi-|pcsk_|tvly-|fw_|lsv2_[a-z]{2}_|KGAT_)[A-Za-z0-9_-]{20,}"
    ),
    "other services": (
        r"\b(?:gl(?:sa|c)_|lin_api_|ntn_|shp(?:at|ca|pa|ss)_|sntry[su]_|figd_|sbp_|ATATT3)"
        r"[A-Za-z0-9_=+/-]{20,}"
    ),
    "other services, with a dash": (
        r"\b(?:NRAK-|PMAK-|pat-[a-z]{2}\d-|key-(?=[0-9a-f]{32}))[\w-]{16,}"
    ),
    "Telegram": r"\b\d{8,10}:[A-Za-z0-9_-]{35}\b",
    "a header": r"(?i:\b(?:bearer|basic))\s+(?=\S*\d)[\w+/=.~-]{16,}",
    "the user of an address": r"(?<=://)(?!git@)[^\s/@?#]+(?=@)",
    "the query of an address": (
        r"(?i:(?<=[?&])[\w.-]*(?:sig|signature|token|key|secret|password|passwd|credential|auth)="
        r"[^\s&#'\"]+)"
    ),
}

_SECRET_KEY = re.compile(
    r"(^|[_-])(api[_-]?keys?|(secret|private|access)[_-]?keys?|secrets?|passwords?|passwd"
    r"|credentials?|bearer|auth)$|(^|[_-])token$",
    re.IGNORECASE,
)
_NO_SECRET_KEY = re.compile(r"(^|_)(pad|eos|bos|unk|sep|cls|mask|image)_token$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(
    r"(key|token|secret|pass|passwd|password|_pwd|credential|dsn)s?(_id)?$|secret|password",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile("|".join(SECRETS.values()))
_HEX_KEY = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{40}(?![0-9a-fA-F])")  # as a tracker's key is
_COMMIT_KEYS = ("revision", "commit", "git_commit", "sha")
_GIVEN = re.compile(r"""((?<![\w.-])[\w.-]*)(\s*=\s*|['"]?:\s*['"])([^\s'",}\]]+)""")
_ENVIRONMENT = re.compile(r"\$\{[^}]*?oc\.env\s*:\s*['\"]?([^\s,}'\"$]*)")
_make_record, _format_warning = logging.getLogRecordFactory(), warnings.formatwarning


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
    here = _secrets_here()
    for key, value in _hydra_last(tree, place):
        texts = [("", key), *(("", part) for part in key.split("."))]
        texts += [(key.rpartition(".")[2], value)] if isinstance(value, str) else []
        for _, text in texts.copy():
            texts += [(m[1].rpartition(".")[2], m[3]) for m in _GIVEN.finditer(text)]
        if any(_is_secret(name, text, here) for name, text in texts):
            parts = key.split(".")
            shown = ".".join("***" if _is_secret("", part, here) else part for part in parts)
            raise ConfigError(
                f"{masked(shown)}: looks like a secret, and configurations are written to disk; "
                "take it out and use the environment (HF_TOKEN, WANDB_API_KEY) or the vendor's "
                "login command"
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
    if bare.startswith(("chain.overrides", "chain.steps.", "hydra.overrides.")):
        bare = text.lstrip("+~").partition("=")[0]
    wrong = None
    if not any(fnmatchcase(bare, allowed) for allowed in PATH_KEYS):
        wrong = f"is for keys that hold a path, as {', '.join(PATH_KEYS[:6])}; not for this one"
    elif _SECRET_VARIABLE.search(name):
        wrong = f"is not for {name}, which is named like a secret"
    elif value is not None and not ("/" in value or os.path.exists(value)):
        wrong = f"is for paths; the value of {name} is none, and is not shown"
    elif value is not None and _is_secret("", value, _secrets_here()):
        wrong = f"is not for {name}, whose value looks like a secret"
    if wrong is not None:
        raise ConfigError(f"{masked(key)}: `${{oc.env:...}}` {wrong}")


def refuse_secret_arguments(arguments: list[str]) -> None:
    """Refuse passwords and keys on the command line, which is written to disk as it is.

    Raises:
        ConfigError: names the key, and does not show the value.
    """
    for argument in arguments:
        key, given, value = argument.partition("=")
        refuse_secrets({key.lstrip("+~"): value} if given else {"the command line": argument})


def _is_secret(name: str, value: str, here: list[str]) -> bool:
    if any(secret in value for secret in here):
        return True
    if value in ("", "null", "???") or _SECRET_KEY.search(name) is None:
        hexadecimal = _HEX_KEY.search(value) and name not in _COMMIT_KEYS and "/" not in value
        return bool(_SECRET_TEXT.search(value) or hexadecimal)
    return _NO_SECRET_KEY.search(name) is None


def _secrets_here() -> list[str]:
    """Values of this process's environment that are secrets by their name, longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name)
        and len(value) >= 8
        and not value.startswith(("/", "~", "."))
        and not value.isdecimal()
    }
    return sorted(found, key=len, reverse=True)


def masked(text: str) -> str:
    """A text for the terminal or a file, without what looks like a secret in it."""

    def hidden(found: re.Match[str]) -> str:
        name = found[1].rpartition(".")[2]
        is_key = _SECRET_KEY.search(name) and not _NO_SECRET_KEY.search(name)
        return f"{found[1]}{found[2]}***" if is_key else found[0]

    for secret in _secrets_here():
        text = text.replace(secret, "***")
    return _SECRET_TEXT.sub("***", _GIVEN.sub(hidden, text))


def mask_output() -> None:
    """From here on, mask secrets in log records, warnings and tracebacks, whoever makes them."""
    logging.setLogRecordFactory(_masked_record)
    warnings.formatwarning = lambda *given: masked(_format_warning(*given))
    sys.excepthook = _masked_traceback
    threading.excepthook = lambda failed: _masked_traceback(
        failed.exc_type, failed.exc_value, failed.exc_traceback
    )


def _masked_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _make_record(*args, **kwargs)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit, which logging prints as they are
        message = f"{record.msg} {record.args}"
        record.msg, record.args = message, ()
    if (shown := masked(message)) != message:
        record.msg, record.args = shown, ()
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = masked("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return record


def _masked_traceback(*failed: Any) -> None:
    print(masked("".join(traceback.format_exception(*failed))), end="", file=sys.stderr)


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
