"""One decision says how a run ended."""

import errno

import pytest

from tdro_lightning import errors
from tdro_lightning.runs.outcome import FIX, RESUME, SYSTEM_FAULTS, UNEXPECTED, run_outcome

ENDS = [
    (None, "finished", 0, "nothing"),
    (errors.ConfigError("x"), "failed", 2, FIX),
    (errors.DataError("x"), "failed", 3, FIX),
    (errors.NonFiniteError("x"), "failed", 4, FIX),
    (errors.CheckpointError("x"), "failed", 5, FIX),
    (errors.ResourceError("x"), "failed", 6, FIX),
    (errors.PeerError("x", 137), "failed", 137, FIX),
    (errors.RunStopped(15, "x"), "stopped", 143, RESUME),
    (errors.RunStopped(0, "x"), "time_limit", 0, RESUME),
    (KeyboardInterrupt(), "stopped", 130, RESUME),
    (ZeroDivisionError("x"), "failed", 1, UNEXPECTED),
    (OSError(errno.EINVAL, "x"), "failed", 1, UNEXPECTED),
]


@pytest.mark.parametrize(("error", "status", "code", "hint"), ENDS)
def test_every_end_has_one_status_code_and_hint(error, status, code, hint) -> None:
    ended = run_outcome(error)
    assert (ended.status, ended.code, ended.hint) == (status, code, hint)
    assert bool(ended.reason) == (error is not None)


def test_every_error_of_ours_is_in_the_table() -> None:
    ours = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    }
    assert ours - {type(error) for error, *_ in ENDS} == {errors.InputError, errors.RowError}


@pytest.mark.parametrize("number", sorted(SYSTEM_FAULTS))
def test_a_fault_of_the_system_names_path_and_key(number: int) -> None:
    ended = run_outcome(OSError(number, "words", "runs/a/file"), "runs/a")
    assert (ended.code, ended.reason) == (6, "run_dir=runs/a/file: words")
    assert run_outcome(OSError(number, "words", "elsewhere"), "runs/a").reason == "elsewhere: words"
    assert len(run_outcome(OSError(number, "words", "a" * 4000)).reason) < 200
