import math
from pathlib import Path

import pytest

from tdro_lightning.report.collect import collect_runs, read_run
from tdro_lightning.report.runs import DomainWeight
from tdro_lightning.report.tables import Table, markdown_table
from tdro_lightning.report.training_tables import (
    concentration_table,
    entropy,
    health_table,
    run_table,
    speed_table,
    usage_table,
    weight_table,
)
from tests.report.folders import weights, write_run

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


def test_the_settings_that_differ_are_shown(tmp_path: Path) -> None:
    history = {"loss": [4.0] * 10 + [1.0, 2.0]}
    for name, rate, share in (("a", 0.1, 50), ("b", 0.2, 50)):
        config = {
            "name": name,
            "optimiser": {"lr": rate, "weight_decay": 0.1},
            "transfer": {"share": share, "weights": None},
            "domains": {"catalogue": {name: {"file": name}}, "only": [name]},
        }
        write_run(tmp_path, f"x/{name}", history=history, config=config, seconds=90.0)
    write_run(
        tmp_path, "x/t", history={"loss": [1.0]}, files={"weights": weights(p=0.5, q=0.5)},
        config={"module": {"kind": "tdro"}, "optimiser": {"lr": 0.1}}, seed=None, seconds=None,
    )  # fmt: skip
    write_run(tmp_path, "x/evaluate", stage="evaluate")
    table = run_table(collect_runs([tmp_path]))
    assert table is not None
    assert markdown_table(table).splitlines() == [
        "| Run | Seed | Minutes | Loss (at the end) | Effective domains | lr (optimiser) "
        "| only (domains) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| x/a | 42 | 1.5 | 2.000 | – | 0.1 | \\['a'\\] |",
        "| x/b | 42 | 1.5 | 2.000 | – | 0.2 | \\['b'\\] |",
        "| x/t | – | – | 1.000 | 2.0 | 0.1 | – |",
    ]


def test_one_run_is_compared_with_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "x", history={"loss": [1.0]})
    assert run_table(collect_runs([tmp_path])) is None


def test_guards_absences_and_reference_by_hand(tmp_path: Path) -> None:
    history = {
        "measurement/a": [1.0] * 20,
        "measurement/b": [1.0] * 17,
        "guarded/a": [0.0] * 15 + [1.0] * 5,
        "loss/reference/a": [2.0, 4.0] + [9.0] * 16 + [1.0, 3.0],
    }
    table = health_table(read_run(write_run(tmp_path, "tdro", history=history)))
    assert table is not None
    rows = [line for line in markdown_table(table).splitlines() if line.startswith(("| a", "| b"))]
    assert rows == ["| a | 25 % | 0 | 3.000 | 2.000 | 0.34 |", "| b | – | 3 | – | – | – |"]


def test_a_run_without_measurement_has_no_such_table(tmp_path: Path) -> None:
    assert health_table(read_run(write_run(tmp_path, "fit", history={"loss": [1.0]}))) is None


def test_the_median_step_and_the_largest_memory(tmp_path: Path) -> None:
    cpu = {
        "speed/passages_per_second": [10.0, 1234.4, 2000.0],
        "speed/tokens_per_second": [1.0, 99_999.0, 200_000.0],
        "speed/padding": [0.01, 0.012, 0.5],
        "speed/at_limit": [0.25, 0.0, 0.031],
        "speed/data_wait": [0.9, 0.0, 0.001],
    }
    gpu = cpu | {"speed/mfu": [0.1, 0.412, 0.42], "speed/peak_memory_gb": [10.0, 71.26, 71.26]}
    runs = [
        read_run(write_run(tmp_path, name, history=history))
        for name, history in (("cpu", cpu), ("gpu", gpu), ("other", {"loss": [1.0]}))
    ]
    table = speed_table(runs)
    assert table is not None
    rows = [line for line in markdown_table(table).splitlines() if line.startswith(("| c", "| g"))]
    assert rows == [
        "| cpu | 1,234 | 99,999 | 1.2 % | 3.1 % | 0.1 % | – | – |",
        "| gpu | 1,234 | 99,999 | 1.2 % | 3.1 % | 0.1 % | 41.2 % | 71.3 |",
    ]
    without_gpu = speed_table(runs[:1])
    assert without_gpu is not None
    assert len(without_gpu.columns) == 6


def test_without_figures_there_is_no_table(tmp_path: Path) -> None:
    assert speed_table([read_run(write_run(tmp_path, "fit", history={"loss": [1.0]}))]) is None
