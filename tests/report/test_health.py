from pathlib import Path

from tdro_lightning.report.collect import read_run
from tdro_lightning.report.health import health_table
from tdro_lightning.report.tables import markdown_table
from tests.report.folders import write_run


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
