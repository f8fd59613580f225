"""Mining in parts: at once, and after a run that was broken."""

from collections import Counter
from pathlib import Path

import pytest

from tdro_lightning.data.jsonl import read_rows
from tdro_lightning.errors import DataError
from tdro_lightning.mining import parts
from tdro_lightning.mining.miner import Miner
from tdro_lightning.mining.parts import mine_in_parts
from tdro_lightning.mining.pool import domain_pool
from tdro_lightning.mining.rule import MiningRule
from tests.made_up import rows
from tests.mining.rankers import bm25_ranker

ROWS = rows("made", 50, overlap=2)
MADE_FROM = {"rows": "sha"}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 8)


def miner(rule: MiningRule = MiningRule(3, 20, skip=1)) -> Miner:  # noqa: B008
    pool = domain_pool(ROWS)
    ranker = bm25_ranker(pool, [r["query"] for r in ROWS])
    return Miner(ROWS, pool, ranker, rule, seed=0)


def mined_at_once() -> tuple[list, dict]:
    one = miner()
    mined, counts = one.choose(range(50), one.search(range(50)))
    return mined, dict(counts)


def written(folder: Path) -> list:
    return [row for _, row in read_rows(folder / "rows.jsonl.gz")]


def test_parts_make_the_whole(tmp_path: Path) -> None:
    counts = mine_in_parts(miner(), tmp_path / "rows.jsonl.gz", tmp_path / "parts", MADE_FROM)
    rows, expected = mined_at_once()
    assert written(tmp_path) == rows
    assert Counter(counts) == Counter(expected)
    assert not (tmp_path / "parts").exists()


class Stopped(KeyboardInterrupt):
    """The run is broken off."""


@pytest.mark.parametrize("same", [True, False])
def test_a_broken_run_mines_what_is_missing(
    tmp_path: Path, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    choose = Miner.choose

    def stopping(self: Miner, numbers: range, hits: tuple) -> tuple:
        asked.append(list(numbers))
        if len(asked) == 4:
            raise Stopped
        return choose(self, numbers, hits)

    monkeypatch.setattr(Miner, "choose", stopping)
    target, folder = tmp_path / "rows.jsonl.gz", tmp_path / "parts"
    with pytest.raises(Stopped):
        mine_in_parts(miner(), target, folder, MADE_FROM)
    assert not target.exists()
    (folder / "000001.json").unlink()  # a part that was being written
    mine_in_parts(miner(), target, folder, MADE_FROM if same else {"rows": "other"})
    again = [numbers[0] for numbers in asked[4:]]
    assert again == ([8, 24, 32, 40, 48] if same else [0, 8, 16, 24, 32, 40, 48])
    assert written(tmp_path) == mined_at_once()[0]


def test_limits_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    one = miner(MiningRule(3, 20, max_score=-1.0))
    with pytest.raises(DataError, match=r"none of the 50 rows keeps a negative; loosen mine\."):
        mine_in_parts(one, tmp_path / "rows.jsonl.gz", tmp_path / "parts", MADE_FROM)
