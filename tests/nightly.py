"""Matrices of which every change runs a few cases, and `make nightly` the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def nightly_but(often: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """The cases for `parametrize`, of which those in `often` are run with every change."""
    often, cases = list(often), list(cases)
    assert often, "a change that breaks all cases must be seen before night"
    assert all(case in cases for case in often), f"{often} must be among {cases}"
    return [case if case in often else _nightly(case) for case in cases]


def _nightly(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.nightly)
