"""Columns by their names, in any order; what has no role is refused."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdro_lightning.data.imports import ROLES
from tdro_lightning.data.imports.layouts import NAMES, sentence_transformers
from tdro_lightning.data.imports.objects import Objects
from tdro_lightning.errors import DataError


def numbered(values: Iterable[dict[str, Any]]) -> Objects:
    return ((f"file:{i}", value) for i, value in enumerate(values, start=1))


def read(*values: dict[str, Any], columns: dict[str, str] | None = None) -> list[dict[str, Any]]:
    return [fields for _, fields in sentence_transformers(numbered(values), columns)]


def row(query: str, positive: str, *negatives: str, query_id: str = "1") -> dict[str, Any]:
    return {
        "query_id": query_id,
        "query": query,
        "positive_passages": [{"text": positive}],
        "negative_passages": [{"text": text} for text in negatives],
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"anchor": "q", "positive": "p"}, row("q", "p")),
        ({"positive": "p", "negative": "n", "anchor": "q"}, row("q", "p", "n")),
        ({"positive": "p", "query": "q", "negative": "n"}, row("q", "p", "n")),
        ({"query_id": "8712", "query": "q", "answer": "a"}, row("q", "a", query_id="8712")),
        ({"query": "q", "answer": "a", "query_id": 0}, row("q", "a", query_id="0")),
        ({"sentence2": "p", "sentence1": "q"}, row("q", "p")),
        ({"question": "q", "passage": "p", "negative_1": None}, row("q", "p")),
        (
            {"negative_10": "c", "negative_2": "b", "query": "q", "pos": "p", "negative": "a"},
            row("q", "p", "a", "b", "c"),
        ),
    ],
)
def test_names_decide(value: dict[str, str], expected: dict[str, Any]) -> None:
    assert read(value) == [expected]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [{"anchor": "q", "positive": "p", "negative": "n", "source": "wiki", "id": "row-17"}],
            "file:1: columns .* are not understood: 'id', 'source' unknown; give the columns: ",
        ),
        ([{"question": "q", "answer": "p", "other": "n"}], "'other' unknown; give the columns"),
        ([{"text": "a", "answer": "p"}], r"there is no query \(anchor, query, .*; 'text' unknown"),
        ([{"anchor": "q", "negative": "n"}], r"there is no positive \(positive, answer, "),
        ([{"anchor": "q", "query": "r", "pos": "p"}], "'anchor' and 'query' could both be the qu"),
        ([{"sentence1": "a", "sentence2": "b", "score": 0.5}], "file:1: .* labelled pairs, .*'sco"),
        ([{"query": "a", "answer": "b", "label": 1}], "file:1: .* labelled pairs, .*'label' says"),
        ([{"query": "x", "pos": "y"}, {"query": "x"}], "file:2: `pos` is missing; columns are"),
        (
            [{"query": "x", "pos": "y"}, {"query": "x", "pos": "y", "negative": "z"}],
            r"file:2: columns are \['negative', 'pos', 'query'\], expected \['pos', 'query'\]",
        ),
        ([{"anchor": "x", "positive": ["y"]}], "file:1: `positive` must be a string, is list"),
        ([{"anchor": 0, "positive": "y"}], "file:1: `anchor` must be a string, is int"),
        ([{"query": "x", "pos": "y", "query_id": None}], "`query_id` must be a string or a whole"),
        ([{"query": "x", "pos": "y", "query_id": ""}], "file:1: `query_id` is empty"),
        ([{}], "file:1: .* are not understood: there is no query"),
    ],
)
def test_what_has_no_role_is_refused(values: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(*values)


def test_given_columns_decide_and_others_are_left_out() -> None:
    columns = {"query": "text", "positive": "query", "negative_2": "b", "negative": "c"}
    value = {"query": "p", "b": "n2", "c": "n", "text": "q", "score": 0.5, "id": 7}
    (found,) = read(value, columns=columns)
    assert found == row("q", "p", "n", "n2") | {"score": 0.5, "id": 7}
    (found,) = read(value, columns=columns | {"query_id": "id"})
    assert found["query_id"] == "7"
    with pytest.raises(DataError, match=r"file:1: `b` is missing; .*\(source.columns\)"):
        read({"query": "p", "text": "q", "c": "n"}, columns=columns)


def test_the_configuration_knows_the_roles() -> None:
    assert tuple(NAMES) == ROLES


names = st.fixed_dictionaries({role: st.sampled_from(known) for role, known in NAMES.items()})


@given(names, st.integers(0, 4), st.sampled_from([0, 7, "0", "007", "a"]), st.data())
def test_any_order_of_the_columns_gives_the_same_rows(
    chosen: dict[str, str], negatives: int, query_id: object, data: st.DataObject
) -> None:
    value = {chosen["query_id"]: query_id, chosen["query"]: "q", chosen["positive"]: "p"}
    value |= {f"negative_{i}": f"n{i}" for i in range(negatives)}
    texts = [f"n{i}" for i in range(negatives)]
    expected = row("q", "p", *texts, query_id=str(query_id))
    shuffled = [{k: value[k] for k in data.draw(st.permutations(list(value)))} for _ in range(2)]
    assert read(*shuffled) == [expected, expected]
