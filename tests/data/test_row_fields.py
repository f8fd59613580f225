import json
import re
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.data.example import passage_text
from tdro_lightning.data.fields import check_row
from tdro_lightning.data.jsonl import read_rows
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.corpus import document_text
from tests.data.test_jsonl import GOOD, POSITIVE, ROW, changed, written


def without(value: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != field}


def with_passage(**fields: Any) -> dict[str, Any]:
    return changed(positive_passages=[POSITIVE, {**POSITIVE, **fields}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without(ROW, "query_id"), "`query_id` must be a string, is missing"),
        (without(ROW, "query"), "`query` must be a string, is missing"),
        (changed(query=None), "`query` must be a string, is NoneType None"),
        (changed(query=5), "`query` must be a string, is int 5"),
        (changed(query_id=7), "`query_id` must be a string, is int 7"),
        (changed(query=["apples"]), "`query` must be a string, is list ['apples']"),
        (changed(query=""), "`query` is empty"),
        (changed(query_id=" \t"), "`query_id` is empty"),
        (
            without(ROW, "positive_passages"),
            "`positive_passages` must be a list of passages, is missing",
        ),
        (
            changed(positive_passages=None),
            "`positive_passages` must be a list of passages, is NoneType",
        ),
        (
            changed(positive_passages="Apples grow."),
            "`positive_passages` must be a list of passages, is str",
        ),
        (
            changed(positive_passages=[]),
            "`positive_passages` is empty; every row needs at least one positive",
        ),
        (
            changed(negative_passages={"text": "a"}),
            "`negative_passages` must be a list of passages, is dict",
        ),
        (
            changed(negative_passages=["Cars."]),
            "`negative_passages[0]` must be an object with docid, title and text, is str",
        ),
        (
            changed(positive_passages=[POSITIVE, without(POSITIVE, "text")]),
            "in `positive_passages[1]`: `text` must be a string, is missing",
        ),
        (
            with_passage(text=None),
            "in `positive_passages[1]`: `text` must be a string, is NoneType None",
        ),
        (with_passage(title="\u2060", text="\n "), "in `positive_passages[1]`: `text` is empty"),
        (with_passage(text=12), "in `positive_passages[1]`: `text` must be a string, is int 12"),
        (with_passage(title=3), "in `positive_passages[1]`: `title` must be a string, is int 3"),
        (with_passage(docid=9), "in `positive_passages[1]`: `docid` must be a string, is int 9"),
        (
            with_passage(text="half \ud83d"),
            "in `positive_passages[1]`: `text` holds a lone surrogate, not valid Unicode",
        ),
        (changed(query="\udc00"), "`query` holds a lone surrogate, not valid Unicode"),
    ],
)
def test_bad_fields_are_named_with_file_and_line(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    # The blank lines count, as they do in an editor.
    path = written(tmp_path / "bad.jsonl", GOOD, b"", b"  ", json.dumps(row).encode(), GOOD, b"")
    with pytest.raises(DataError, match=f"^{re.escape(f'{path}:4: {message}')}"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("score", "read"), [("1", 1.0), ("-2.5", -2.5), ("0", 0.0), ("1e-320", 1e-320), ("null", None)]
)
def test_scores(tmp_path: Path, score: str, read: float | None) -> None:
    line = json.dumps(with_passage(score="@")).replace('"@"', score)
    ((_, row),) = read_rows(written(tmp_path / "scores.jsonl", line.encode()))
    passage = row["positive_passages"][1]
    assert passage.get("score") == read
    assert read is None or type(passage["score"]) is float


@pytest.mark.parametrize("score", ["true", '"1"', "[1]", "{}", "1e999", "-1e999", "1" + "0" * 400])
def test_bad_scores(tmp_path: Path, score: str) -> None:
    line = json.dumps(with_passage(score="@")).replace('"@"', score)
    path = written(tmp_path / "scores.jsonl", b"", line.encode())
    message = r"scores\.jsonl:2: in `positive_passages\[1\]`: `score` must be a finite number, is "
    with pytest.raises(DataError, match=message):
        list(read_rows(path))


def test_a_title_may_be_all_that_a_passage_has() -> None:
    row = {"query_id": "q", "query": "x", "positive_passages": [{"title": "Faust", "text": " "}]}
    (passage,) = check_row(row, "here")["positive_passages"]
    assert passage == {"docid": "", "title": "Faust", "text": ""}
    assert passage_text(passage) == "Faust"
    assert document_text("Faust", " ") == "Faust"  # as in an evaluation set


def test_what_may_be_left_out() -> None:
    bare = {"query_id": "q", "query": "x", "positive_passages": [{"text": "y"}]}
    expected = {
        "query_id": "q",
        "query": "x",
        "positive_passages": [{"docid": "", "title": "", "text": "y"}],
        "negative_passages": [],
    }
    assert check_row(bare, "here") == expected
    nulls = {"docid": None, "title": None, "text": "y", "score": None}
    filled = {**bare, "positive_passages": [nulls], "negative_passages": None, "language": "de"}
    assert check_row(filled, "here") == expected
