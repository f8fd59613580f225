"""How a run ends: one decision for its exit code, its record and what the screen says."""

import errno
from dataclasses import dataclass
from pathlib import Path

from tdro_lightning.errors import InputError, NonFiniteError, ResourceError, RunStopped

SYSTEM_FAULTS = {  # errors of the system whose cause is no fault of the program
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG),
    *(errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENXIO),
}
SHOWN = 120  # characters of a path in a message


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        status: finished, failed, stopped or time_limit.
        code: the command's exit code.
        reason: what happened, in one sentence; empty where it finished.
        hint: what to do next.
    """

    status: str
    code: int
    reason: str
    hint: str


RESUME = "Give the same command again to resume"
FIX = "Fix the cause, then give the same command again to resume"
UNEXPECTED = "This is no fault of the input; the traceback is in tdro_lightning.log"


def run_outcome(error: BaseException | None, run_dir: str = "") -> RunOutcome:
    """What an exception that ended a run means; None where it ended without one.

    Args:
        error: the exception.
        run_dir: the run folder as the user gave it; a message about a path in it names the key.
    """
    if error is None:
        return RunOutcome("finished", 0, "", "nothing")
    if isinstance(error, RunStopped):
        if not error.signal:
            return RunOutcome("time_limit", 0, str(error), RESUME)
        return RunOutcome("stopped", 128 + error.signal, str(error), RESUME)
    if isinstance(error, KeyboardInterrupt):
        return RunOutcome("stopped", 130, "stopped by Ctrl-C", RESUME)
    if isinstance(error, FloatingPointError):
        return RunOutcome("failed", NonFiniteError.code, str(error), FIX)
    if isinstance(error, InputError) or type(error).__module__ == "hydra.errors":
        return RunOutcome("failed", getattr(error, "code", InputError.code), str(error), FIX)
    if isinstance(error, OSError) and error.errno in SYSTEM_FAULTS:
        return RunOutcome("failed", ResourceError.code, _system_fault(error, run_dir), FIX)
    return RunOutcome("failed", 1, f"{type(error).__name__}: {error}", UNEXPECTED)


def _system_fault(error: OSError, run_dir: str) -> str:
    """The system's message with the path, and the key where the path is in the run folder."""
    path = str(error.filename or "a file")
    key = "run_dir=" if run_dir and Path(path).is_relative_to(run_dir) else ""
    shown = path if len(path) <= SHOWN else f"{path[:SHOWN]}..."
    return f"{key}{shown}: {error.strerror}"
