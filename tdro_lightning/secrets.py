"""What secrets look like; they are masked in everything that is printed, logged or written."""

import contextlib
import io
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any

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
SECRET_VARIABLE = re.compile(
    r"(key|token|secret|pass|passwd|password|_pwd|credential|dsn)s?(_id)?$|secret|password",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile("|".join(SECRETS.values()))
_HEX_KEY = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{40}(?![0-9a-fA-F])")  # as a tracker's key is
_COMMIT_KEYS = ("revision", "commit", "git_commit", "sha")
GIVEN = re.compile(r"""((?<![\w.-])[\w.-]*)(\s*=\s*|['"]?:\s*['"])([^\s'",}\]]+)""")
_make_record, _format_warning = logging.getLogRecordFactory(), warnings.formatwarning
_handle_error, _print_unraisable = logging.Handler.handleError, sys.unraisablehook


def is_secret(name: str, value: str, here: list[str]) -> bool:
    """Whether a value is a secret, by its key or by its shape.

    Args:
        name: last part of its key.
        value: as it was given.
        here: secrets of the environment.
    """
    if any(secret in value for secret in here):
        return True
    if value in ("", "null", "???") or _SECRET_KEY.search(name) is None:
        hexadecimal = _HEX_KEY.search(value) and name not in _COMMIT_KEYS and "/" not in value
        return bool(_SECRET_TEXT.search(value) or hexadecimal)
    return _NO_SECRET_KEY.search(name) is None


def environment_secrets() -> list[str]:
    """Values of this process's environment that are secrets by their name, longest first."""
    secrets = {
        value
        for name, value in os.environ.items()
        if SECRET_VARIABLE.search(name)
        and len(value) >= 8
        and not value.startswith(("/", "~", "."))
        and not value.isdecimal()
    }
    return sorted(secrets, key=len, reverse=True)


def mask_secrets(text: str) -> str:
    """A text for the terminal or a file, without what looks like a secret in it."""

    def hidden(found: re.Match[str]) -> str:
        name = found[1].rpartition(".")[2]
        is_key = _SECRET_KEY.search(name) and not _NO_SECRET_KEY.search(name)
        return f"{found[1]}{found[2]}***" if is_key else found[0]

    for secret in environment_secrets():
        text = text.replace(secret, "***")
    return _SECRET_TEXT.sub("***", GIVEN.sub(hidden, text))


def mask_output() -> None:
    """From here on, mask secrets in log records, warnings and tracebacks, whoever makes them."""
    logging.setLogRecordFactory(_mask_record)
    warnings.formatwarning = lambda *given: mask_secrets(_format_warning(*given))
    sys.excepthook = _masked_print(sys.__excepthook__)
    threading.excepthook = _masked_print(threading.__excepthook__)
    # Where a log cannot be written and where an object's end fails, Python prints whole tracebacks.
    logging.Handler.handleError = _masked_print(_handle_error)  # type: ignore[method-assign]
    sys.unraisablehook = _masked_print(_print_unraisable)


def _masked_print(print_error: Callable[..., object]) -> Callable[..., None]:
    """The same function, with the secrets masked in what it prints to the error stream."""

    def print_masked(*args: Any) -> None:
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed):
            print_error(*args)
        if sys.stderr is not None:
            sys.stderr.write(mask_secrets(printed.getvalue()))

    return print_masked


def _mask_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _make_record(*args, **kwargs)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit, which logging prints as they are
        message = f"{record.msg} {record.args}"
        record.msg, record.args = message, ()
    if (shown := mask_secrets(message)) != message:
        record.msg, record.args = shown, ()
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = mask_secrets(
            "".join(traceback.format_exception(*record.exc_info)).rstrip()
        )
    return record
