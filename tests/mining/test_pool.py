import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.data.characters import normalise
from tdro_lightning.data.example import Passage, Row, passage_text
from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint
from tdro_lightning.mining.pool import Places, corpus_pool, domain_pool, key_hash

LINES = [
    {"_id": "a", "title": "Faust", "text": "a play"},
    {"_id": "b", "title": "", "text": "Kein Titel"},
    {"_id": "c", "text": "kein  titel"},  # b again, as it is compared
    {"_id": "d", "title": "empty", "text": " "},
    {"_id": "b", "title": None, "text": "the id of another"},
    {"_id": "e", "title": "", "text": "faust a PLAY", "metadata": {}},  # a again
]


def write(path: Path, lines: list[dict]) -> Path:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    return path


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_corpus_keeps_the_first_of_equal_texts(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, LINES)
    pool = corpus_pool(path, fingerprint(path))
    assert list(pool.texts) == ["Faust a play", "Kein Titel", "the id of another"]
    assert pool.texts[1:] == ["Kein Titel", "the id of another"]
    assert [pool.texts[i] for i in range(3)] == list(pool.texts)
    assert list(pool.passages) == [pool.passages[i] for i in range(len(pool.passages))]
    assert pool.passages[1] == Passage(docid="b", title="", text="Kein Titel")
    assert pool.left_out == 1
    assert pool.by_text["kein titel"] == [1]
    assert pool.by_text["empty"] == []
    assert [pool.by_docid[docid] for docid in "abcde"] == [[0], [1, 2], [1], [], [0]]
    assert pool.places(Passage(docid="c", title="", text="FAUST a play")) == {0, 1}
    assert pool.places(Passage(docid="", title="", text="unknown")) == set()


def test_a_large_corpus_is_read_in_batches(tmp_path: Path) -> None:
    lines = [{"_id": f"{i}", "title": "", "text": f"text {i % 9000}"} for i in range(10_000)]
    path = write(tmp_path / "corpus.jsonl", lines)
    pool = corpus_pool(path, fingerprint(path))
    assert len(pool.texts) == 9000
    assert list(pool.texts) == [f"text {i}" for i in range(9000)]
    for i in (0, 4095, 4096, 8999, 9500):
        assert pool.by_docid[f"{i}"] == [i % 9000]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no passages in it"),
        ([{"_id": "a", "text": ""}], "no passage with a text in it"),
        (
            [LINES[0], {"text": "x"}],
            r"corpus\.jsonl:2: `_id` must be a string or a whole number, is None",
        ),
        ([{"_id": 7.5, "text": "x"}], r":1: `_id` must be a string"),
        ([{"_id": "", "text": "x"}], r":1: `_id` is empty"),
        ([{"_id": "a", "text": "\u3164"}], "no passage with a text in it"),
        ([{"_id": "a", "title": "x"}], r":1: `text` must be a string, is"),
        ([{"_id": "a", "title": 3, "text": "x"}], r":1: `title` must be a string"),
    ],
)
def test_a_broken_corpus_is_refused(tmp_path: Path, lines: list[dict], message: str) -> None:
    path = write(tmp_path / "corpus.jsonl", lines)
    with pytest.raises(DataError, match=message):
        corpus_pool(path, fingerprint(path))


def test_a_domain_s_pool_does_not_depend_on_the_order_of_rows() -> None:
    def row(name: str, *texts: tuple[str, str]) -> Row:
        passages = [Passage(docid=docid, title="", text=text) for docid, text in texts]
        return Row(
            query_id=name,
            query=name,
            positive_passages=passages[:1],
            negative_passages=[p | {"score": 1.0} for p in passages[1:]],
        )

    rows = [
        row("q", ("2", "One"), ("", "three"), ("4", "two")),
        row("r", ("1", "one"), ("4", "TWO  "), ("5", "three")),
    ]
    for ordered in (rows, rows[::-1]):
        pool = domain_pool(ordered)
        assert [(p["docid"], p["text"]) for p in pool.passages] == [
            ("1", "one"),
            ("5", "three"),
            ("4", "TWO  "),
        ]
        assert not any("score" in p for p in pool.passages)
        assert list(pool.texts) == [passage_text(p) for p in pool.passages]
        assert [pool.by_docid[d] for d in "1234"] == [[0], [0], [], [2]]
        assert [pool.by_text[normalise(t)] for t in pool.texts] == [[0], [1], [2]]


def test_places_of_a_key_that_stands_several_times() -> None:
    keys = ["x", "y", "x", "z", "x"]
    hashes = np.array([key_hash(key) for key in keys], dtype=np.uint64)
    places = Places(hashes, np.array([4, 3, 2, 1, 0]))
    assert (places["x"], places["y"], places["none"]) == ([0, 2, 4], [3], [])
