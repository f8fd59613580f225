from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.data.example import Passage, Row
from tdro_lightning.data.jsonl import read_objects, read_rows
from tdro_lightning.decontamination import row_filter
from tdro_lightning.decontamination.evaluation_index import EvaluationIndex, EvaluationText
from tdro_lightning.decontamination.row_filter import filter_rows

ASKED = "which planet has the most moons in the solar system"
SHOWN = "Saturn Saturn has more known moons than any other planet; most of them are small."
INDEX = EvaluationIndex(
    [EvaluationText("sky", "query", "q", ASKED), EvaluationText("sky", "document", "d", SHOWN)],
    simhash_distance=3,
    jaccard=0.7,
)


def passage(text: str, docid: str = "", title: str = "") -> Passage:
    return Passage(docid=docid, title=title, text=text)


HIT = passage("Saturn has more known moons than any other planet; most of them are small!", "h")
TITLED = passage(
    "has more known moons than any other planet; most of them are small", "t", "Saturn"
)
GOOD = passage("Granite is an igneous rock of quartz and feldspar.", "g")
BAD = passage("Basalt is a dark volcanic rock.", "b")


def row(name: str, query: str, positives: list[Passage], negatives: list[Passage]) -> Row:
    return Row(query_id=name, query=query, positive_passages=positives, negative_passages=negatives)


ROWS = [
    row("clean", "what is granite", [GOOD], [BAD]),
    row("asked", "in the solar system, WHICH planet has the most moons?", [GOOD], [HIT, BAD]),
    row("a positive", "which rock has quartz", [HIT, GOOD], [BAD]),
    row("its only positive", "which rock is dark", [TITLED], [BAD, GOOD]),
    row("a negative", "where is basalt from", [BAD], [GOOD, HIT]),
    row("its only negative", "what is basalt", [BAD], [HIT]),
    row("no negatives", "rocks", [GOOD], []),
    row("shown", SHOWN.replace(";", ","), [GOOD], [BAD]),
]


@pytest.fixture
def done(tmp_path: Path) -> dict[str, Any]:
    counts = filter_rows(ROWS, INDEX, tmp_path / "clean.jsonl", tmp_path / "dropped.jsonl.gz")
    kept = {r["query_id"]: r for _, r in read_rows(tmp_path / "clean.jsonl")}
    dropped = [line for _, line in read_objects(tmp_path / "dropped.jsonl.gz")]
    return {"counts": counts, "kept": kept, "dropped": dropped}


def test_rows_go_by_query_and_by_their_last_positive_or_negative(done) -> None:
    kept = done["kept"]
    assert list(kept) == ["clean", "a positive", "a negative", "no negatives"]
    assert kept["clean"] == ROWS[0]
    assert kept["a positive"]["positive_passages"] == [GOOD]
    assert kept["a negative"]["negative_passages"] == [GOOD]
    assert kept["no negatives"] == ROWS[6]


def test_the_counts(done) -> None:
    assert done["counts"] == {
        "rows": 8,
        "kept": 4,
        "dropped_rows": {"query": 2, "no positive left": 1, "no negative left": 1},
        "dropped_passages": {"positive": 1, "negative": 1},
        "methods": {"exact": 0, "simhash": 7, "minhash": 0},
        "sets": {"sky": {"query": 2, "positive": 2, "negative": 3}},
    }


def test_every_dropped_text_is_listed_with_what_it_repeats(done) -> None:
    lines = {(line["query_id"], line["part"]): line for line in done["dropped"]}
    assert len(lines) == len(done["dropped"]) == 7
    assert {key: (line["fate"], line["reason"]) for key, line in lines.items()} == {
        ("asked", "query"): ("row", "query"),
        ("asked", "negative"): ("row", "query"),
        ("a positive", "positive"): ("passage", None),
        ("its only positive", "positive"): ("row", "no positive left"),
        ("a negative", "negative"): ("passage", None),
        ("its only negative", "negative"): ("row", "no negative left"),
        ("shown", "query"): ("row", "query"),
    }
    (match,) = lines["asked", "query"]["matches"]
    assert match == {
        "set": "sky",
        "kind": "query",
        "id": "q",
        "text": ASKED,
        "method": "simhash",
        "distance": 0.0,
    }
    assert lines["a negative", "negative"]["docid"] == "h"
    assert lines["a negative", "negative"]["text"] == HIT["text"]
    assert lines["shown", "query"]["docid"] is None
    assert lines["shown", "query"]["matches"][0]["kind"] == "document"


def test_neither_batches_nor_forgetting_changes_a_byte(done, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(row_filter, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(row_filter, "TEXTS_REMEMBERED", 1)
    counts = filter_rows(ROWS, INDEX, tmp_path / "clean2.jsonl", tmp_path / "dropped2.jsonl.gz")
    assert counts == done["counts"]
    for one, other in (("clean.jsonl", "clean2.jsonl"), ("dropped.jsonl.gz", "dropped2.jsonl.gz")):
        assert (tmp_path / one).read_bytes() == (tmp_path / other).read_bytes()
