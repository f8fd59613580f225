import numpy as np
import pytest

from tdro_lightning.data.example import Passage, Row, passage_text
from tdro_lightning.errors import DataError
from tdro_lightning.mining import miner as mining
from tdro_lightning.mining.miner import Miner
from tdro_lightning.mining.pool import domain_pool
from tdro_lightning.mining.rule import MiningRule
from tests.mining.rankers import bm25_ranker


def passage(text: str, docid: str = "") -> Passage:
    return Passage(docid=docid, title="", text=text)


def row(name: str, query: str, positives: list[Passage], negatives: list[Passage]) -> Row:
    return Row(query_id=name, query=query, positive_passages=positives, negative_passages=negatives)


def mine_domain(
    rows: list[Row], count: int, depth: int, seed: int, **limits: float
) -> tuple[list[Row], dict[str, int]]:
    """All rows by BM25 from their own passages."""
    pool = domain_pool(rows)
    ranker = bm25_ranker(pool, [r["query"] for r in rows])
    miner = Miner(rows, pool, ranker, MiningRule(count, depth, **limits), seed)
    numbers = range(len(rows))
    mined, counts = miner.choose(numbers, miner.search(numbers))
    return mined, {"pool": len(pool.texts), **counts}


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
        "searched": 4,
        "random": 2,
        "skipped_rank": 0,
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
    mined, counts = mine_domain(rows, 1, 5, seed=0)
    assert [texts(m) for m in mined] == [["Ann, 30"], ["Ann, 30"]]
    assert counts["skipped_query"] == 2


def test_random_fill_is_seeded_and_excludes_the_same_passages() -> None:
    others = [passage(f"word{i} filler{i}", f"n{i}") for i in range(30)]
    near = passage("apples and pears and plums", "near")
    rows = [row("q", "apples", [passage("apples and pears", "p")], others + [near])]
    first, statistics = mine_domain(rows, 5, 5, seed=1)
    assert (statistics["searched"], statistics["random"]) == (0, 5)
    assert statistics["skipped_near_duplicate"] == 1
    assert len(set(texts(first[0]))) == 5
    assert first == mine_domain(rows, 5, 5, seed=1)[0]
    assert first != mine_domain(rows, 5, 5, seed=2)[0]
    every, _ = mine_domain(rows, 30, 30, seed=1)
    assert sorted(texts(every[0])) == sorted(passage_text(p) for p in others)
    with pytest.raises(DataError, match="'q': 31 negatives wanted, but only 30 of the 32"):
        mine_domain(rows, 31, 31, seed=1)


def test_a_large_pool_is_not_shuffled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [passage(f"word{i} filler{i}", f"n{i}") for i in range(2100)]
    rows = [row("q", "apples", [passage("apples and pears", "p")], others)]
    monkeypatch.setattr(mining, "SHUFFLED", 2000)
    first, _ = mine_domain(rows, 5, 5, seed=1)
    assert len(set(texts(first[0]))) == 5
    assert first == mine_domain(rows, 5, 5, seed=1)[0]
    assert first != mine_domain(rows, 5, 5, seed=2)[0]


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
    assert counts["searched"] + counts["random"] == 80 * 6


def test_scores_of_other_queries_are_dropped() -> None:
    negative = Passage(docid="n", title="T", text="apple tart", score=0.5)
    rows = [row("q", "apple", [passage("pears", "p")], [negative])]
    mined, _ = mine_domain(rows, 1, 1, seed=0)
    assert mined[0]["negative_passages"] == [Passage(docid="n", title="T", text="apple tart")]
