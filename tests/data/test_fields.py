"""Fields of foreign rows: types, never truth values, defaults or casts."""

import ast
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdro_lightning.data.fields import grade, identifier, new_identifier, optional_list, string
from tdro_lightning.errors import DataError

PACKAGE = Path(__file__).parents[2] / "tdro_lightning"
READERS = sorted(
    path
    for folder in ("data", "evaluation")
    for path in (PACKAGE / folder).rglob("*.py")
    if path.name != "encode.py"  # reads what it has written
)
CASTS = ("int", "float", "str", "bool")


def from_a_row(node: ast.expr) -> bool:
    """Whether this is `row.get(...)`, `row.pop(...)` or `row["name"]`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("get", "pop")
    return (
        isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
    )


def careless(code: str) -> list[int]:
    """Lines that replace a field that is 0 or empty by a default, or cast one."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            found += [node.lineno for value in node.values[:-1] if from_a_row(value)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            casts = node.func.id in CASTS and any(map(from_a_row, node.args))
            found += [node.lineno] * casts
    return found


@pytest.mark.parametrize(
    "line",
    ['row.get("id") or number', 'str(row["id"])', 'int(row.get("score"))', 'x["a"] or 0 or 1'],
)
def test_careless_lines_are_found(line: str) -> None:
    assert careless(f"if True:\n    y = {line}") == [2]
    assert careless('y = row.get("id", number); z = row["id"] is None or row["id"] == 0') == []


@pytest.mark.parametrize("path", READERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_reader_takes_a_field_by_its_truth_value_or_casts_it(path: Path) -> None:
    assert careless(path.read_text()) == []


@given(st.integers() | st.text(st.characters(categories=("L", "N")), min_size=1))
def test_ids_stay_as_they_are(value: int | str) -> None:
    assert identifier({"id": value}, "id", "x:1") == str(value)


@pytest.mark.parametrize("value", [None, True, False, 1.0, [], {}, ["a"], b"a"])
def test_ids_of_other_types_are_refused(value: Any) -> None:
    with pytest.raises(DataError, match="^x:1: `id` must be a string or a whole number, is "):
        identifier({"id": value}, "id", "x:1")


@pytest.mark.parametrize("value", ["", " ", "\u200b", "\u3164"])
def test_ids_that_cannot_be_seen_are_refused(value: str) -> None:
    with pytest.raises(DataError, match="^x:1: `id` is empty$"):
        identifier({"id": value}, "id", "x:1")


def test_known_ids_lists_and_texts() -> None:
    with pytest.raises(DataError, match="^x:1: `id` '0' is a duplicate$"):
        new_identifier({"id": 0}, "id", {"0"}, "x:1")
    assert optional_list({}, "a", "x:1") == optional_list({"a": None}, "a", "x:1") == []
    assert optional_list({"a": [0]}, "a", "x:1") == [0]
    for value in ("", 0, False, {}, "ab"):
        with pytest.raises(DataError, match="^x:1: `a` must be a list, is "):
            optional_list({"a": value}, "a", "x:1")
    assert string({"a": ""}, "a", "x:1") == ""
    with pytest.raises(DataError, match="^x:1: `a` holds a lone surrogate"):
        string({"a": "\ud800"}, "a", "x:1")


@given(
    st.integers(-(10**17), 100),
    st.sampled_from([int, str, "{}.0".format, "{}.".format, " {} ".format]),
)
def test_whole_grades_are_read_in_each_way_that_they_are_written(value: int, write: Any) -> None:
    assert grade(write(value), "x:1") == max(value, 0)


words = st.text(st.characters(exclude_categories=("N", "Cs")))


@given(st.integers(101, 10**30) | st.floats().filter(lambda x: not x.is_integer()) | words)
def test_other_grades_are_refused(value: Any) -> None:
    for written in (value, str(value)):
        with pytest.raises(DataError, match="^x:1: the score must be a whole number up to 100, is"):
            grade(written, "x:1")
