"""Errors that a user can fix: the message names the value, what is allowed and where to change it.

A command ends with the error's exit code: 2 configuration, 3 data, 4 non-finite numbers, 5 no
usable checkpoint, 6 disk or memory, 143 SIGTERM, 130 SIGINT.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def did_you_mean(
    name: str, known: Iterable[str], prefix: str = "", *, most: int = 1, cutoff: float = 0.6
) -> str:
    """The end of a message on a misspelt name, such as `; did you mean fit?`, or nothing.

    Args:
        name: what was given.
        known: what is allowed.
        prefix: what stands before a name that is shown, such as `stage=`.
        most: names to show at most.
        cutoff: similarity from 0 to 1 from which on a known name is near.
    """
    near = difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f"; did you mean {' or '.join(prefix + one for one in near)}?" if near else ""


class InputError(ValueError):
    """Something the user gave is wrong; the command ends with one message and an exit code.

    Args:
        message: the value, what is allowed, and where to change it.
        code: the exit code; None for that of the kind of error.
    """

    code = 2

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code or self.code


class ConfigError(InputError):
    """A wrong or missing configuration key; the message names the key."""


class DataError(InputError):
    """A wrong or missing file, line or field; the message names file and line."""

    code = 3


class RowError(DataError):
    """One row of a training file that cannot be used; the others may be.

    Args:
        message: file and line, field, and what is wrong with it.
        kind: the fault in a word or two, for counts.
        line: the row's line, from 1.
    """

    def __init__(self, message: str, kind: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.line = line


class CheckpointError(DataError):
    """A run should resume, and none of its checkpoints can be used."""

    code = 5


class ResourceError(InputError):
    """There is not enough disk space or memory."""

    code = 6


class PeerError(InputError):
    """Another process of the run has failed, so this one ends with its message and exit code."""


class RunStopped(BaseException):  # noqa: N818 - no error, and nothing may catch it as one
    """A signal or the time limit ended the run in good order.

    Args:
        signal: the signal's number; 0 is the time limit.
        message: where it stopped, and how to resume.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = signal


class NonFiniteError(FloatingPointError):
    """A loss is NaN or infinite; nothing was updated with it.

    Args:
        message: which losses, of which domains and rows.
        rows: for each of this process's rows with such a loss, what is known of it.
    """

    code = 4

    def __init__(self, message: str, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.rows = list(rows)
