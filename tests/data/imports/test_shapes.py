"""Shapes that give rows, layout by layout; tests/test_malformed.py has those that are refused."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdro_lightning.data.imports.layouts import flag_embedding
from tdro_lightning.errors import DataError
from tests.malformed import imports, imports_by_id
from tests.malformed.imports import Shape, fe

SHAPES = [*imports.SHAPES, *imports_by_id.SHAPES]
READABLE = [shape for shape in SHAPES if isinstance(shape.expected, list)]


@pytest.mark.parametrize("shape", READABLE, ids=lambda shape: f"{shape.layout}: {shape.what}")
def test_it_gives_these_rows(shape: Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shape.use(tmp_path) == shape.expected


def test_there_are_enough_of_each_layout() -> None:
    names = [(shape.layout, shape.what) for shape in SHAPES]
    assert len(names) >= 60
    assert len(set(names)) == len(names)
    assert min(sum(layout == one for layout, _ in names) for one, _ in names) >= 9


fillers = "\u115f\u1160\u3164\uffa0\u2800\U0001d159"
texts = st.text(st.characters(categories=("L", "N", "P", "S", "Zs", "Cc", "Cf")), max_size=3)
ids = st.sampled_from([0, 1, 2, "0", "", "007", "1", "2", None, True, 1.0, *fillers]) | texts


@given(st.lists(ids, min_size=1, max_size=4))
@settings(deadline=None)
def test_any_ids_stay_as_they_are_or_are_refused(given_ids: list[object]) -> None:
    """A row has the id that it came with; numbers stand in only where no row has one."""
    rows = ((f"x:{i}", fe(query_id=one)) for i, one in enumerate(given_ids, start=1))
    present = [one for one in given_ids if one is not None]
    if not all(map(_is_id, present)) or 0 < len(present) < len(given_ids):
        with pytest.raises(DataError, match=r"^x:\d: `query_id` "):
            list(flag_embedding(rows))
        return
    expected = given_ids if present else range(1, len(given_ids) + 1)
    found = [fields["query_id"] for _, fields in flag_embedding(rows)]
    assert found == [str(one) for one in expected]


def _is_id(value: object) -> bool:
    """A whole number, or a text of which something can be seen."""
    if isinstance(value, str):
        return any(unicodedata.category(c)[0] in "LNPS" and c not in fillers for c in value)
    return type(value) is int
