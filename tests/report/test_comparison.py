from pathlib import Path

from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.comparison import run_table
from tdro_lightning.report.tables import markdown_table
from tests.report.folders import weights, write_run


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
