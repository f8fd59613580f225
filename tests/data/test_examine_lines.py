"""Absolute line numbers, what is not read, and duplicate ids."""

import json
from pathlib import Path
from typing import Any

from tdro_lightning.data.jsonl import Line, examine_lines


def row(name: str, **changes: Any) -> str:
    passages = [{"docid": "", "title": "", "text": f"text of {name}"}]
    value = {"query_id": name, "query": f"query {name}", "positive_passages": passages}
    return json.dumps({**value, **changes})


def lines(path: Path, *content: str) -> list[Line]:
    path.write_text("\n".join(content) + "\n", encoding="utf-8")
    return list(examine_lines(path))


def test_line_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    """In 24 MB, which others read in blocks, each with a count of its own."""
    content = [row(f"q{i}", more="x" * 1900) for i in range(12_001)]
    content[11_999] = content[11_999][:-1]
    found = [one for one in lines(tmp_path / "a.jsonl", *content) if one.fault]
    assert [one.number for one in found] == [12_000]
    assert str(found[0].fault).startswith(f"{tmp_path}/a.jsonl:12000: not valid JSON")


def test_blank_lines_count_and_are_no_rows(tmp_path: Path) -> None:
    found = lines(tmp_path / "a.jsonl", "", row("a"), "  ", "", row("b"))
    assert [one.number for one in found] == [2, 5]


def test_keys_that_are_not_read(tmp_path: Path) -> None:
    passages = [{"text": "a"}, {"text": "b", "url": "x", "rank": 1}]
    (found,) = lines(tmp_path / "a.jsonl", row("a", positive_passages=passages, answers=[]))
    assert sorted(found.unread) == [
        "answers",
        "positive_passages[].rank",
        "positive_passages[].url",
    ]
    assert found.row is not None
    assert found.row["positive_passages"][1] == {"docid": "", "title": "", "text": "b"}


def test_negatives_that_equal_a_positive_are_left_out(tmp_path: Path) -> None:
    positives = [{"title": "Caf\u00e9", "text": "open"}]
    negatives = [
        {"text": "Cafe\u0301 open "},  # composed otherwise, with a space
        {"title": "Caf\u00e9", "text": "open"},
        {"text": "caf\u00e9 open"},  # another text: case matters
    ]
    content = row("a", positive_passages=positives, negative_passages=negatives)
    (found,) = lines(tmp_path / "a.jsonl", content)
    assert found.false_negatives == 2
    assert found.row is not None
    assert [one["text"] for one in found.row["negative_passages"]] == ["caf\u00e9 open"]


def test_every_later_line_of_an_id_is_a_fault(tmp_path: Path) -> None:
    names = ["a", "b", "a", "c", "b", "a"]
    found = lines(tmp_path / "a.jsonl", *(row(name) for name in names))
    assert [one.number for one in found] == [1, 2, 3, 4, 5, 6, 3, 5, 6]
    assert [(one.number, one.fault.kind) for one in found if one.fault] == [
        (3, "id twice"), (5, "id twice"), (6, "id twice"),
    ]  # fmt: skip
    assert "stands in line 1 already" in str(found[-1].fault)
