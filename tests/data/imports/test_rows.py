from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.data.imports.rows import import_rows
from tdro_lightning.data.jsonl import read_objects, read_rows
from tdro_lightning.errors import DataError


def fields(name: Any, query: Any, positives: Any, negatives: Any, **more: Any) -> dict[str, Any]:
    return {
        "query_id": name,
        "query": query,
        "positive_passages": positives,
        "negative_passages": negatives,
        **more,
    }


GIVEN = [
    fields(7, "first", [{"text": "a", "score": 2}], [{"text": "b", "docid": "x", "image": 1}]),
    fields("e", " ", [{"text": "a"}], []),
    fields("n", None, [{"text": "a"}], []),
    fields("p", "no text", [{"text": " "}, {"text": None, "docid": "gone"}], [{"text": "b"}]),
    fields(
        "q",
        "twice",
        [{"title": "T", "text": "a"}, {"title": "t", "text": "A  "}],
        [{"text": "t a"}, {"text": "c"}, {"text": "C"}, {}],
        source="web",
    ),
    fields("7", "same id", [{"text": "a"}], None),
    fields("last", "none", [{"text": "a"}], None, source="web", lang="en"),
]


def imported(given: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    numbered = ((f"file:{i}", dict(value)) for i, value in enumerate(given, start=1))
    return import_rows("stars", numbered, folder / "rows.jsonl.gz", folder / "dropped.jsonl.gz")


def test_what_can_be_a_row_becomes_one(tmp_path: Path) -> None:
    counts = imported(GIVEN, tmp_path)
    first, second, third = (row for _, row in read_rows(tmp_path / "rows.jsonl.gz"))
    assert first == {
        "query_id": "7",
        "query": "first",
        "positive_passages": [{"docid": "", "title": "", "text": "a", "score": 2.0}],
        "negative_passages": [{"docid": "x", "title": "", "text": "b"}],
    }
    assert [p["text"] for p in second["positive_passages"]] == ["a"]
    assert [p["text"] for p in second["negative_passages"]] == ["c"]
    assert third["negative_passages"] == []
    assert counts == {
        "read": 7,
        "written": 3,
        "positives": 3,
        "negatives": 2,
        "rows_without_negatives": 1,
        "dropped_rows": {"empty query": 2, "no positive": 1, "query_id twice": 1},
        "dropped_passages": {"no text": 3, "duplicate": 2, "negative is a positive": 1},
        "ignored_fields": {"lang": 1, "source": 2},
    }


def test_every_row_left_out_is_listed(tmp_path: Path) -> None:
    imported(GIVEN, tmp_path)
    assert [line for _, line in read_objects(tmp_path / "dropped.jsonl.gz")] == [
        {"place": "file:2", "reason": "empty query", "query_id": "e", "query": " "},
        {"place": "file:3", "reason": "empty query", "query_id": "n", "query": None},
        {"place": "file:4", "reason": "no positive", "query_id": "p", "query": "no text"},
        {"place": "file:6", "reason": "query_id twice", "query_id": "7", "query": "same id"},
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (fields("1", 5, [{"text": "a"}], []), "file:1: `query` must be a string"),
        (fields("1", "q", "a", []), "file:1: `positive_passages` must be a list of objects"),
        (fields("1", "q", [{"text": 3}], []), r"in `positive_passages\[0\]`: `text` must be"),
        (fields("1", "q", ["a"], []), "`positive_passages` must be a list of objects"),
        (fields(None, "q", [{"text": "a"}], []), "file:1: `query_id` must be a string"),
        (fields("1", "q", [{"text": "a", "score": "hi"}], []), "`score` must be a finite number"),
    ],
)
def test_fields_of_another_type_are_refused(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        imported([row], tmp_path)


def test_a_source_without_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="domain 'stars': no row that can be used .nothing there"):
        imported([], tmp_path)
    with pytest.raises(DataError, match="no row that can be used .2 empty query, 1 no positive"):
        imported(GIVEN[1:4], tmp_path)
    assert not (tmp_path / "rows.jsonl.gz").exists()
