"""What `make nightly` tries in all its forms, `make test` tries in one."""

import ast
from pathlib import Path

import pytest

from tests.nightly import nightly_but

TESTS = Path(__file__).parent
ONLY_NIGHTLY = {
    "export/test_oldest_version.py": "needs a second environment; other versions of the same "
    "libraries read an export in stages/test_export.py",
    "models/test_smollm2.py": "needs a model of 93 MB; made-up ones of its family are read in "
    "models/test_published.py",
}


def is_nightly(node: ast.AST) -> bool:
    """Whether the code names the mark."""
    return any(isinstance(n, ast.Attribute) and n.attr == "nightly" for n in ast.walk(node))


def has_fast_tests(path: Path) -> bool:
    """Whether a file has a test that is not marked; `nightly_but` always leaves one."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    marks = [n for n in body if isinstance(n, ast.Assign) and "pytestmark" in ast.unparse(n)]
    tests = [n for n in body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
    return not any(map(is_nightly, marks)) and any(
        not any(map(is_nightly, test.decorator_list)) for test in tests
    )


def test_every_file_has_a_test_that_every_change_runs() -> None:
    paths = {str(path.relative_to(TESTS)): path for path in TESTS.rglob("test_*.py")}
    without = {name for name, path in paths.items() if not has_fast_tests(path)}
    assert without == ONLY_NIGHTLY.keys()


def test_only_the_named_cases_of_a_matrix_are_run_with_every_change() -> None:
    cases = nightly_but([("a", 1)], [("a", 1), ("b", 2)])
    assert cases == [("a", 1), pytest.param("b", 2, marks=pytest.mark.nightly)]
    with pytest.raises(AssertionError, match="must be among"):
        nightly_but(["c"], ["a", "b"])
    with pytest.raises(AssertionError, match="must be seen"):
        nightly_but([], ["a", "b"])
