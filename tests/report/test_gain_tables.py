from pathlib import Path

import pytest

from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.gains import compare_with_baselines
from tdro_lightning.report.result_tables import gain_tables, interval, p_value
from tdro_lightning.report.results import baseline_pairs, results_over_seeds
from tdro_lightning.report.significance import PairedTest
from tdro_lightning.report.tables import Table
from tests.report.folders import write_evaluated

BASE = [0.1 + 0.02 * i for i in range(20)]
BETTER = [score + 0.1 + 0.01 * (i % 3) for i, score in enumerate(BASE)]


def tables(folder: Path) -> tuple[Table, ...]:
    pairs = baseline_pairs(results_over_seeds(collect_runs([folder])), "uniform")
    return gain_tables(compare_with_baselines(pairs, "ndcg@10"), "nDCG@10")


def rows(table: Table) -> list[list[str]]:
    return [[cell.text + cell.mark for cell in row] for row in table.rows]


def test_one_seed(tmp_path: Path) -> None:
    write_evaluated(
        tmp_path, "r", {"uniform": {"nq": BASE, "g/a": BASE}, "x": {"nq": BETTER, "g/a": BASE}}
    )
    average, sets = tables(tmp_path)
    assert rows(average) == [
        ["x", "uniform", "2", "40", "29.0", "34.5", "+5.5*", "5.3 to 5.7", "0.0002", "<0.0001"]
    ]
    assert [column.note for column in sets.columns] == ["", "", "20 queries", "20 queries"]
    assert rows(sets) == [["x", "uniform", "+10.9* (10.6 to 11.3)", "0.0"]]
    assert "`group/part`" in average.caption


def test_several_seeds(tmp_path: Path) -> None:
    for seed, gain in enumerate((0.1, 0.2, 0.03)):
        ours = [score + gain for score in BASE]
        write_evaluated(
            tmp_path, "r", {"uniform": {"nq": BASE}, "x": {"nq": ours}}, seed=seed, folder=str(seed)
        )
    assert rows(tables(tmp_path)[2]) == [
        [
            *("x", "uniform", "3", "+11.0", "+3.0", "+20.0"),
            *("-10.2 to 32.2", "0.1555 (3 seeds)", "3 of 3"),
        ]
    ]


def test_nothing_to_compare_makes_no_table(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "r", {"uniform": {"nq": BASE}})
    assert tables(tmp_path) == ()


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.00004, "<0.0001"), (0.0022, "0.0022"), (1.0, "1.0000")]
)
def test_p_values(value: float | None, text: str) -> None:
    assert p_value(value) == text


def test_intervals() -> None:
    assert interval(PairedTest(-0.5, -1.0, -0.04, 0.04, 0.04)) == "-1.0 to 0.0"
    assert interval(PairedTest(0.5, None, None, None, 1.0)) == interval(None) == "–"
