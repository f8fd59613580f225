import json
from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.data.example import Passage, Row, passage_text
from tdro_lightning.data.jsonl import read_rows, write_rows
from tdro_lightning.data.mining import mine, mine_domain, near_duplicates
from tdro_lightning.errors import ConfigError, DataError


def passage(text: str, docid: str = "", title: str = "") -> Passage:
    return Passage(docid=docid, title=title, text=text)


def row(name: str, query: str, positives: list[Passage], negatives: list[Passage]) -> Row:
    return Row(query_id=name, query=query, positive_passages=positives, negative_passages=negatives)


def texts(mined: Row) -> list[str]:
    return [passage_text(negative) for negative in mined["negative_passages"]]


POSITIVE = "red apples grow on old trees in autumn"
ROWS = [
    row(
        "q1",
        "Red apples",
        [passage(POSITIVE, "p1")],
        [
            passage("RED apples  grow on old trees in autumn", "copy"),
            passage("we know red apples grow on old trees in autumn too", "longer"),
            passage("red apples grow on old trees", "shorter"),
            passage("old trees in autumn grow red apples, on and on", "shuffled"),
            passage("green apples are sour", "n1"),
            passage("red cars are fast", "n2"),
        ],
    ),
    row("q2", "red  APPLES", [passage("a fruit called red apples", "p2")], []),
    row("q3", "stars", [passage("the sun is a star", "p3")], [passage("moon and tides", "n3")]),
]


def test_best_hits_without_positives_and_near_duplicates() -> None:
    mined, statistics = mine_domain(ROWS, 2, 10, seed=0)
    assert sorted(texts(mined[0])) == ["green apples are sour", "red cars are fast"]
    assert texts(mined[1]) == texts(mined[0])
    assert [m["positive_passages"] for m in mined] == [r["positive_passages"] for r in ROWS]
    assert statistics == {
        "rows": 3,
        "pool": 9,  # the copy is one passage with the first positive
        "bm25": 4,
        "random_fill": 2,
        "skipped_positive": 2 * 2 + 1,
        "skipped_near_duplicate": 2 * 3,
    }


def test_a_positive_is_known_by_docid_and_by_text() -> None:
    rows = [
        row("a", "blue whale", [passage("blue whale song", "d1")], []),
        row("b", "x", [passage("other words", "d2")], [passage("Blue WHALE song", "d9")]),
        row("c", "y", [passage("more words", "d3")], [passage("blue whale revised text", "d1")]),
        row("d", "z", [passage("last words", "d4")], [passage("blue sky", "d5")]),
    ]
    mined, _ = mine_domain(rows, 1, 5, seed=0)
    assert texts(mined[0]) == ["blue sky"]


def test_the_query_itself_is_no_negative() -> None:
    rows = [
        row("a", "how tall is Ann?", [passage("Ann's height in feet", "1")], []),
        row("b", "ann's height in FEET", [passage("How tall is Ann?", "2")], [passage("Ann, 30")]),
    ]
    mined, _ = mine_domain(rows, 1, 5, seed=0)
    assert [texts(m) for m in mined] == [["Ann, 30"], ["Ann, 30"]]


def test_random_fill_is_seeded_and_excludes_the_same_passages() -> None:
    others = [passage(f"word{i} filler{i}", f"n{i}") for i in range(30)]
    near = passage("apples and pears and plums", "near")
    rows = [row("q", "apples", [passage("apples and pears", "p")], others + [near])]
    first, statistics = mine_domain(rows, 5, 5, seed=1)
    assert (statistics["bm25"], statistics["random_fill"]) == (0, 5)
    assert statistics["skipped_near_duplicate"] == 1
    assert len(set(texts(first[0]))) == 5
    assert first == mine_domain(rows, 5, 5, seed=1)[0]
    assert first != mine_domain(rows, 5, 5, seed=2)[0]
    every, _ = mine_domain(rows, 30, 30, seed=1)
    assert sorted(texts(every[0])) == sorted(passage_text(p) for p in others)
    with pytest.raises(DataError, match="'q': 31 negatives wanted, but only 30 of the domain's 32"):
        mine_domain(rows, 31, 31, seed=1)


def test_row_order_changes_nothing() -> None:
    generator = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(60)])
    rows = [
        row(
            f"q{i}",
            " ".join(generator.choice(words, 4)),
            [passage(" ".join(generator.choice(words, 8)), f"d{i}")],
            [],
        )
        for i in range(80)
    ]
    straight, counts = mine_domain(rows, 6, 8, seed=3)
    turned, turned_counts = mine_domain(rows[::-1], 6, 8, seed=3)
    assert turned[::-1] == straight
    assert counts == turned_counts
    assert counts["bm25"] + counts["random_fill"] == 80 * 6


def test_scores_of_other_queries_are_dropped() -> None:
    negative = Passage(docid="n", title="T", text="apple tart", score=0.5)
    rows = [row("q", "apple", [passage("pears", "p")], [negative])]
    mined, _ = mine_domain(rows, 1, 1, seed=0)
    assert mined[0]["negative_passages"] == [Passage(docid="n", title="T", text="apple tart")]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a b1 b2 b3 b4 b5", "b5 b4 b3 b2 b1", True),
        ("b1 b2 b3 b4", "b4 b3 b2 b1 b5", True),  # 4 of 5
        ("b1 b2 b3 b4 x", "b4 b3 b2 b1 b5", False),  # 4 of 6
        ("trees in autumn", "old tree, autumn leaves", True),
        ("art", "a party", False),
        ("東京都", "これは東京都です", True),
        ("the", "the of", False),
    ],
)
def test_near_duplicates(one: str, other: str, expected: bool) -> None:
    assert near_duplicates(one, other) is expected
    assert near_duplicates(other, one) is expected


def test_wrong_arguments() -> None:
    for count, depth, seed in ((0, 5, 0), (6, 5, 0), (1, 1, -1)):
        with pytest.raises(ConfigError, match=f"count={count}, depth={depth}, seed={seed}"):
            mine_domain(ROWS, count, depth, seed)
    with pytest.raises(DataError, match="no rows"):
        mine_domain([], 1, 1, 0)


def test_mine_writes_each_domain_and_the_statistics(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    write_rows(source / "fruit.jsonl", ROWS)
    write_rows(source / "more.jsonl.gz", ROWS)
    statistics = mine(source, output, count=2, depth=10, seed=0)
    assert list(statistics["domains"]) == ["fruit", "more"]
    assert json.loads((output / "mining.json").read_text()) == statistics
    expected, counts = mine_domain(ROWS, 2, 10, 0)
    assert statistics["domains"]["more"] == counts
    assert [r for _, r in read_rows(output / "fruit.jsonl.gz")] == expected
    first = (output / "more.jsonl.gz").read_bytes()
    mine({"more": source / "more.jsonl.gz"}, output, count=2, depth=10, seed=0)
    assert (output / "more.jsonl.gz").read_bytes() == first


def test_mine_names_the_file_at_fault(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        mine(tmp_path / "nowhere", tmp_path / "out", 1, 1, 0)
    with pytest.raises(DataError, match=r"no \.jsonl or \.jsonl\.gz file"):
        mine(tmp_path, tmp_path / "out", 1, 1, 0)
    path = tmp_path / "few.jsonl.gz"
    write_rows(path, ROWS[2:])
    with pytest.raises(DataError, match=r"few\.jsonl\.gz: query_id 'q3': 2 negatives wanted"):
        mine(tmp_path, tmp_path / "out", 2, 2, 0)
    with pytest.raises(DataError, match="write over its input"):
        mine(tmp_path, tmp_path, 1, 1, 0)
    write_rows(tmp_path / "few.jsonl", ROWS)
    with pytest.raises(DataError, match="domain 'few' has two files"):
        mine(tmp_path, tmp_path / "out", 1, 1, 0)
