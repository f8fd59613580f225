import math
from pathlib import Path

import pytest

from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.domains import (
    concentration_table,
    entropy,
    usage_table,
    weight_table,
)
from tdro_lightning.report.runs import DomainWeight
from tdro_lightning.report.tables import Table
from tests.report.folders import write_run

WEIGHTS = (
    DomainWeight("small", 1000, 0.1, 0.2, None),
    DomainWeight("large", 2_000_000, 0.5, 0.4, None),
    DomainWeight("b", 5, 0.2, 0.2, None),
    DomainWeight("a", 5, 0.2, 0.2, None),
)


def rows(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_weights_are_sorted_by_the_last() -> None:
    assert rows(weight_table(WEIGHTS)) == [
        ["large", "2,000,000", "0.2500", "0.5000", "0.4000", "–", "2.00×"],
        ["a", "5", "0.2500", "0.2000", "0.2000", "–", "0.80×"],
        ["b", "5", "0.2500", "0.2000", "0.2000", "–", "0.80×"],
        ["small", "1,000", "0.2500", "0.1000", "0.2000", "–", "0.40×"],
    ]


def test_concentration_of_uniform_last_and_mean() -> None:
    table = rows(concentration_table(WEIGHTS))
    assert [row[0] for row in table] == ["Uniform", "Last", "Mean"]
    assert table[0][1:] == ["1.0000", "1.0", f"{math.log(4):.3f}", "4.0"]
    by_hand = -(0.5 * math.log(0.5) + 0.4 * math.log(0.2) + 0.1 * math.log(0.1))
    assert table[1][1:] == ["1.0000", "5.0", f"{by_hand:.3f}", f"{math.exp(by_hand):.1f}"]


def test_a_domain_without_weight() -> None:
    kept = (DomainWeight("a", 1, 1.0, None, None), DomainWeight("b", 1, 0.0, None, None))
    assert rows(concentration_table(kept))[1] == ["Last", "1.0000", "∞", "0.000", "1.0"]
    assert entropy([0.5, 0.5, 0.0]) == pytest.approx(math.log(2))


def test_usage_has_a_row_a_domain_and_a_column_a_run(tmp_path: Path) -> None:
    used = {"rows": 2000, "drawn": 0, "probability": 0.5}
    write_run(tmp_path, "x", files={"data_usage": {"a": used | {"epochs": 1.504}}})
    write_run(
        tmp_path, "y", files={"data_usage": {"a": used | {"epochs": 0}, "b": used | {"epochs": 20}}}
    )
    write_run(tmp_path, "z")
    table = usage_table(collect_runs([tmp_path]))
    assert table is not None
    assert [column.title for column in table.columns] == ["Domain", "Rows", "x", "y"]
    assert rows(table) == [["a", "2,000", "1.50", "0.00"], ["b", "2,000", "–", "20.00"]]


def test_no_usage_no_table(tmp_path: Path) -> None:
    write_run(tmp_path, "z")
    assert usage_table(collect_runs([tmp_path])) is None
