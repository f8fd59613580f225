"""Only the drawn rows are read, the same whenever; the batch is the one that training draws."""

from pathlib import Path

import pytest

from tdro_lightning.data.dataset import RetrievalDataset
from tdro_lightning.data.domains import load_domains
from tdro_lightning.data.jsonl import rows_at, write_rows
from tdro_lightning.data.samplers import HomogeneousBatches
from tdro_lightning.errors import DataError
from tdro_lightning.inspection.sample import Drawing
from tests.inspection.made_pairs import made_rows

PROMPTS = ["Find it", "Look"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows, _ = made_rows(60)
    for i, row in enumerate(rows):  # passages that many rows share
        row["negative_passages"] = rows[i - i % 7]["negative_passages"]
        row["positive_passages"] = rows[i - i % 3]["positive_passages"]
    write_rows(tmp_path / "made.jsonl", rows)
    return tmp_path / "made.jsonl"


@pytest.mark.parametrize(("batch_size", "negatives"), [(16, 2), (100, 5), (1, 0)])
def test_the_batch_is_the_first_of_training(path: Path, batch_size: int, negatives: int) -> None:
    drawn = Drawing(10, batch_size, negatives, seed=3).read(path, "made", PROMPTS, range(1, 61))
    entry = {"file": path.name, "prompts": PROMPTS, "symmetric": False}
    domains = load_domains({"made": entry}, root=str(path.parent), hub=None, only=None)
    data = RetrievalDataset(domains, negatives, seed=3)
    sampler = HomogeneousBatches(["made"], [60], batch_size, 1, 3, probability=[1.0])
    texts = [text for draw in sampler.global_batch(0) for text in data[draw].passages]
    assert drawn.batch.rows == min(60, batch_size)
    assert drawn.batch.passages == len(texts)
    assert drawn.batch.repeated == len(texts) - len(set(texts))


def test_equal_settings_draw_equal_rows_and_another_seed_others(path: Path) -> None:
    def lines(seed: int, rows: int = 10) -> list[int]:
        found = Drawing(rows, 4, 1, seed).read(path, "made", [], range(1, 61))
        return [row.line for row in found.rows]

    assert lines(0) == lines(0) == sorted(lines(0))
    assert len(set(lines(0))) == 10
    assert lines(0) != lines(1)
    assert set(lines(0)) <= set(lines(0, 20))
    assert lines(0, 1000) == list(range(1, 61))


def test_lines_that_cannot_be_read_are_passed_over(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[4] = "{broken\n"
    path.write_text("".join(lines))
    left = [i for i in range(1, 61) if i != 5]
    found = Drawing(1000, 8, 1, 0).read(path, "made", [], left)
    assert [row.line for row in found.rows] == left
    assert Drawing(5, 8, 1, 0).read(path, "made", [], []).rows == []
    with pytest.raises(DataError, match=r"made\.jsonl:5: not valid JSON"):
        list(rows_at(path, [5]))
    assert [number for number, _ in rows_at(path, [7, 3])] == [3, 7]
