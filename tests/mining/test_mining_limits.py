"""Limits of the scores, the rank window, and teachers, with texts that are angles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tdro_lightning.data.example import Row, passage_text
from tdro_lightning.mining.miner import Miner
from tdro_lightning.mining.pool import PairScorer, domain_pool
from tdro_lightning.mining.rule import MiningRule
from tdro_lightning.search.bm25 import BM25
from tdro_lightning.search.dense import DenseRetriever, DenseScorer
from tests.mining.rankers import pool_ranker
from tests.mining.test_miner import mine_domain, passage, row, texts


def angle(text: str) -> list[float]:
    """A text's last word as an angle in degrees, as a unit vector."""
    turned = np.deg2rad(float(text.split()[-1]))
    return [np.cos(turned), np.sin(turned)]


def embed(texts: list[str], prompt: str | None = None) -> NDArray[np.float32]:
    """Vectors of texts; a prompt turns them, so that it is seen to be used."""
    turn = 0 if prompt is None else float(prompt)
    words = [f"{float(text.split()[-1]) + turn}" for text in texts]
    return np.array([angle(word) for word in words], dtype=np.float32)


ANGULAR = DenseRetriever(embed, embed, "angles")


def cosine(degrees: float) -> float:
    return float(np.cos(np.deg2rad(degrees)))


ANGLES = [5, 12, 20, 25, 31, 40, 48, 70]
AROUND = [
    row(
        "q",
        "at 0",
        [passage("worse 22"), passage("better 10")],
        [passage(f"x{a} {a}") for a in ANGLES],
    ),
    row("r", "at 60", [passage("near 60")], []),
]


def mine_angles(
    folder: Path, rule: MiningRule, rows: list[Row] = AROUND, teacher_turn: str | None = None
) -> tuple[list[Row], dict[str, int]]:
    """The rows by cosines; a teacher sees the queries turned by some degrees."""
    pool = domain_pool(rows)
    queries = [r["query"] for r in rows]
    ranker = pool_ranker(ANGULAR, pool, queries, None, folder)
    teacher = None
    if teacher_turn:
        teacher = pool_ranker(ANGULAR, pool, queries, teacher_turn, folder / "teacher")
    miner = Miner(rows, pool, ranker, rule, 0, teacher)
    numbers = range(len(rows))
    mined, counts = miner.choose(numbers, miner.search(numbers))
    return mined, dict(counts)


def found(mined: Row) -> list[int]:
    return [int(text.split()[-1]) for text in texts(mined)]


def test_the_rank_window_counts_positives(tmp_path: Path) -> None:
    # By angle from 0: 5, [10], 12, 20, [22], 25, 31, 40, 48, 60, 70.
    mined, counts = mine_angles(tmp_path, MiningRule(3, depth=6, skip=3), AROUND[:1])
    assert found(mined[0])[:2] == [20, 25]
    assert (counts["searched"], counts["random"]) == (2, 1)
    assert (counts["skipped_rank"], counts["skipped_positive"]) == (3, 1)
    assert found(mined[0])[2] in {5, 12, 31, 40, 48, 70}


@pytest.mark.parametrize(
    ("limits", "expected", "skipped"),
    [
        ({}, [5, 12, 20, 25], {}),
        ({"margin": 0.0}, [25, 31, 40, 48], {"margin": 3}),  # the worse positive is at 22
        ({"margin": cosine(22) - cosine(35)}, [40, 48, 60, 70], {"margin": 5}),
        ({"ratio": 0.9}, [40, 48, 60, 70], {"ratio": 5}),  # 0.9 cos 22 = cos 33.4
        ({"max_score": cosine(15)}, [20, 25, 31, 40], {"max_score": 2}),
        ({"max_score": cosine(15), "ratio": 0.95}, [31, 40, 48, 60], {"max_score": 2, "ratio": 2}),
    ],
)
def test_limits_drop_what_scores_too_high(
    tmp_path: Path, limits: dict[str, float], expected: list[int], skipped: dict[str, int]
) -> None:
    mined, counts = mine_angles(tmp_path, MiningRule(4, depth=11, **limits))
    assert found(mined[0]) == expected
    assert "score" not in mined[0]["negative_passages"][0]
    own, both = mine_angles(tmp_path / "own", MiningRule(4, depth=11, **limits), AROUND[:1])
    if 60 not in expected:  # the other row's positive
        assert own[0]["negative_passages"] == mined[0]["negative_passages"]
        for limit, number in skipped.items():
            assert both[f"skipped_{limit}"] == number


def test_a_row_whose_positive_scores_low_may_keep_fewer_or_none(tmp_path: Path) -> None:
    rows = [
        row("q", "at 0", [passage("p 50")], [passage(f"x{a} {a}") for a in (5, 10, 60)]),
        row("r", "at 90", [passage("p 175")], []),
    ]
    mined, counts = mine_angles(tmp_path, MiningRule(2, depth=3, margin=0.0), rows)
    assert [m["query_id"] for m in mined] == ["q", "r"]
    assert set(found(mined[0])) == {60, 175}  # 60 by search or at random, 175 at random
    assert set(found(mined[1])) <= {5}
    mined, counts = mine_angles(tmp_path / "2", MiningRule(2, depth=3, max_score=-0.9), rows[:1])
    assert (mined, counts["without"], counts["rows"]) == ([], 1, 1)


def test_a_teacher_decides_and_its_scores_are_kept(tmp_path: Path) -> None:
    # The teacher sees the query at 30: the positive at 10 is the worse one there, at cos 20.
    mined, counts = mine_angles(
        tmp_path, MiningRule(3, depth=10, margin=0.0), AROUND[:1], teacher_turn="30"
    )
    kept = found(mined[0])
    assert kept == [5, 70]  # all others are nearer to 30 than 10 is
    assert (counts["searched"], counts["random"], counts["short"]) == (2, 0, 1)
    scores = [p["score"] for p in mined[0]["negative_passages"]]
    np.testing.assert_allclose(scores, [cosine(a - 30) for a in kept], atol=1e-6)
    positive = [p["score"] for p in mined[0]["positive_passages"]]
    np.testing.assert_allclose(positive, [cosine(8), cosine(20)], atol=1e-6)
    assert "score" not in AROUND[0]["positive_passages"][0]


class Asked:
    """A teacher that scores by angle to 0 and keeps the texts it was asked for."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def score(self, rows: Sequence[int], texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        return np.array([angle(text)[0] for text in texts], dtype=np.float32)

    def forget(self) -> None:
        """Nothing is kept."""


@pytest.mark.parametrize(
    ("margin", "expected", "asked"),
    [
        (0.0, [24, 25, 26, 27], 1 + 3 + 4),  # the positive, then four hits at a time without it
        (0.2, [44, 45, 46, 47], 1 + 3 + 6 * 4),  # cos 22 - 0.2 = cos 43.3
        (0.5, [], 1 + 39 + 8 - 3),  # all hits, then eight drawn, three of which were hits
    ],
)
def test_a_teacher_is_asked_only_until_there_are_enough(
    tmp_path: Path,
    margin: float,
    expected: list[int],
    asked: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = [row("q", "at 0", [passage("p 22")], [passage(f"x{a} {a}") for a in range(24, 124)])]
    pool = domain_pool(given)
    ranker = pool_ranker(ANGULAR, pool, ["at 0"], None, tmp_path)
    teacher = Asked()
    miner = Miner(given, pool, ranker, MiningRule(4, 40, margin=margin), 0, teacher)
    with caplog.at_level("INFO"):
        mined, counts = miner.choose([0], miner.search([0]))
    assert found(mined[0])[: len(expected)] == expected
    assert counts["searched"] == len(expected)
    assert len(teacher.texts) == len(set(teacher.texts)) == asked
    assert "1 of 1 rows mined" in caplog.text


def test_scores_do_not_depend_on_what_was_mined_before(tmp_path: Path) -> None:
    """Vectors of an encoder differ in the last bits, by what is embedded beside them."""

    def together(texts: Sequence[str]) -> NDArray[np.float32]:
        return embed(list(texts)) * np.float32(1 + 1e-4 * len(texts))

    rows = AROUND[::-1]
    pool = domain_pool(rows)
    queries = [r["query"] for r in rows]
    ranker = pool_ranker(ANGULAR, pool, queries, None, tmp_path)
    made = []
    for before in ([], [0]):
        encoded = ANGULAR.encode_queries(queries, None, tmp_path / "t")
        teacher = PairScorer(DenseScorer(together), encoded)
        miner = Miner(rows, pool, ranker, MiningRule(3, 9, margin=0.0), 0, teacher)
        if before:
            miner.choose(before, miner.search(before))
        made.append(miner.choose([1], miner.search([1])))
    assert made[0] == made[1]


def test_a_teacher_without_limits_scores_what_was_chosen(tmp_path: Path) -> None:
    plain, _ = mine_angles(tmp_path, MiningRule(3, depth=9), AROUND)
    taught, _ = mine_angles(tmp_path, MiningRule(3, depth=9), AROUND, teacher_turn="-15")
    assert [found(m) for m in taught] == [found(m) for m in plain]
    for number, at in enumerate((0, 60)):
        scores = [p["score"] for p in taught[number]["negative_passages"]]
        expected = [cosine(a - at + 15) for a in found(plain[number])]
        np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_limits_compare_bm25_scores_of_passages_and_positives() -> None:
    words = ["apple", "pear", "plum", "fig", "kiwi", "lime", "nut", "oat"]
    generator = np.random.default_rng(5)
    rows = [
        row(
            f"q{i}",
            " ".join(generator.choice(words, 3)),
            [passage(" ".join(generator.choice(words, 5)) + f" p{i} own{i}", f"p{i}")],
            [passage(" ".join(generator.choice(words, 5)) + f" n{i} own{i}", f"n{i}")],
        )
        for i in range(30)
    ]
    pool = domain_pool(rows)
    index = BM25(pool.texts)
    mined, counts = mine_domain(rows, 3, 30, 0, ratio=0.8, max_score=1.5)
    dropped = counts["skipped_ratio"], counts["skipped_max_score"]
    assert min(dropped) > 0
    assert counts["short"] == sum(len(made["negative_passages"]) < 3 for made in mined) > 0
    assert len(mined) == 30 - counts["without"] < 30
    by_id = {made["query_id"]: made for made in mined}
    for given in [r for r in rows if r["query_id"] in by_id]:
        made = by_id[given["query_id"]]
        positive = index.score([given["query"]], [passage_text(given["positive_passages"][0])])[0]
        scores = index.score([given["query"]] * len(texts(made)), texts(made))
        assert (scores <= min(0.8 * positive, 1.5) + 1e-6).all()
    assert counts["rows"] == 30
