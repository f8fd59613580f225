from collections.abc import Iterable
from typing import Any

import pytest

from tdro_lightning.data.imports import layouts
from tdro_lightning.data.imports.objects import Objects, Source
from tdro_lightning.errors import DataError


def numbered(values: Iterable[dict[str, Any]]) -> Objects:
    return ((f"file:{i}", value) for i, value in enumerate(values, start=1))


def fields(given: Iterable[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [value for _, value in given]


def test_published_rows_stay_as_they_are() -> None:
    row = {"query_id": "1", "query": "q", "positive_passages": [{"text": "p"}], "extra": 1}
    assert list(layouts.tdro(numbered([row]))) == [("file:1", row)]


def test_flag_embedding_with_scores_and_ids() -> None:
    row = {
        "query": "q",
        "pos": ["p"],
        "neg": ["m", "n"],
        "pos_scores": [0.9],
        "neg_scores": [0.1, 0.2],
        "pos_id": [3],
        "neg_id": ["4", "5"],
        "prompt": "Find",
    }
    plain = {"query": "r", "pos": ["p"], "neg": [], "pos_scores": None}
    first, second = fields(layouts.flag_embedding(numbered([row, plain])))
    assert first["query_id"] == "1"
    assert first["positive_passages"] == [{"text": "p", "score": 0.9, "docid": "3"}]
    assert first["negative_passages"] == [
        {"text": "m", "score": 0.1, "docid": "4"},
        {"text": "n", "score": 0.2, "docid": "5"},
    ]
    assert layouts.ignored_fields(first) == ["prompt"]
    assert second["positive_passages"] == [{"text": "p"}]
    assert second["negative_passages"] == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q", "neg": []}, "file:1: `pos` is missing; the fields are .*source.layout"),
        ({"query": "q", "pos": 7}, "file:1: `pos` must be a list, is 7"),
        ({"query": "q", "pos": False}, "file:1: `pos` must be a list, is False"),
        ({"query": "q", "pos": "['a', 'b']"}, "file:1: `pos` is a list written as a text"),
        ({"query": "q", "pos": ["p"], "neg": 0}, "file:1: `neg` must be a list, is 0"),
        ({"query": "q", "pos": ["p"], "pos_id": [1.5]}, "file:1: `pos_id` must be a string or a"),
        ({"query": "q", "pos": ["p"], "query_id": ""}, "file:1: `query_id` is empty"),
        ({"query": "q", "pos": ["p"], "query_id": True}, "`query_id` must be a string or a whole"),
        ({"query": "q", "pos": ["p"], "pos_scores": []}, "`pos_scores` must be a list as long as"),
    ],
)
def test_other_flag_embedding_fields_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(layouts.flag_embedding(numbered([row])))


CORPUS = [
    {"docid": "1", "title": "One", "text": "first"},
    {"docid": "2", "title": None, "text": "second", "image": None},
    {"docid": "3", "text": "third"},
]


def tevatron(rows: list[dict[str, Any]], corpus: list[dict[str, Any]] | None = None) -> list[Any]:
    documents = Source({}, lambda: numbered(corpus)) if corpus is not None else None
    return fields(layouts.tevatron(documents, lambda: numbered(rows)))


def test_tevatron_with_passages() -> None:
    row = {"query_id": "1", "query": "q", "positive_passages": [{"docid": "d", "text": "p"}]}
    assert tevatron([row]) == [row]
    assert tevatron([]) == []


def test_tevatron_with_document_ids() -> None:
    row = {
        "query_id": "7",
        "query_text": "q",
        "query_image": None,
        "positive_document_ids": ["2"],
        "negative_document_ids": ["1", "9"],
        "source": "somewhere",
    }
    (made,) = tevatron([row], CORPUS)
    assert (made["query_id"], made["query"]) == ("7", "q")
    assert made["positive_passages"] == [CORPUS[1]]
    assert made["negative_passages"] == [CORPUS[0], {"docid": "9", "text": None}]
    assert layouts.ignored_fields(made) == ["query_image", "source"]
    with pytest.raises(DataError, match=r"file:1: rows name documents by id.*source\.corpus=FILE"):
        tevatron([row])


def test_the_oldest_tevatron() -> None:
    (made,) = tevatron([{"query": "q", "positives": ["p"], "negatives": ["n"]}])
    assert made["query_id"] == "1"
    assert made["positive_passages"] == [{"text": "p"}]
    assert made["negative_passages"] == [{"text": "n"}]
    with pytest.raises(DataError, match="file:1: `query` holds token ids, not text"):
        tevatron([{"query": [101, 7], "positives": [[5]], "negatives": []}])


def test_what_is_not_tevatron_s_is_refused() -> None:
    with pytest.raises(DataError, match=r"none of Tevatron's layouts; the fields are \['anchor'\]"):
        tevatron([{"anchor": "q"}])
