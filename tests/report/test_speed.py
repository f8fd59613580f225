from pathlib import Path

from tdro_lightning.report.collect import read_run
from tdro_lightning.report.speed import speed_table
from tdro_lightning.report.tables import markdown_table
from tests.report.folders import write_run


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
