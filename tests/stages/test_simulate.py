"""The stage `simulate` as a user runs it, with few steps."""

import json
from pathlib import Path

import pytest

from tests.command import run

FEW = ("+experiment=measurement_simulation", "simulate.steps=15", "simulate.rows=100")


def test_it_writes_the_table_and_all_numbers(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ended = run(capfd, tmp_path, *FEW, "simulate.seeds=[5,6]", "run_dir=out")
    assert ended.code == 0, ended.err
    content = json.loads((tmp_path / "out/simulation.json").read_text())
    assert content["settings"]["seeds"] == [5, 6]
    assert content["published"]["spearman_of_losses"] == pytest.approx(0.9, abs=0.01)
    assert len(content["measurements"]) == 12
    released = content["measurements"]["released"]["static"]
    assert len(released["spearman"]) == 2
    assert sum(released["weights"].values()) == pytest.approx(1)
    table = (tmp_path / "out/simulation.md").read_text()
    assert "max/min 263, 15.0 effective domains" in table
    for label in content["measurements"]:
        assert label in table
        assert label in ended.out
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["status"] == "finished"
    assert record["inputs"] == {}
    assert {"simulation.json", "simulation.md"} <= set(record["outputs"])


def test_the_same_settings_give_the_same_bytes(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for folder in ("one", "two"):
        assert run(capfd, tmp_path, *FEW, "simulate.seeds=[1,2]", f"run_dir={folder}").code == 0
    for name in ("simulation.json", "simulation.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("simulate.seeds=[1]", "simulate.seeds=[1] must be two different seeds or more"),
        ("simulate.rows=0", "simulate.rows=0 must be from 1"),
        ("simulate.proxy_noise=-1", "simulate.proxy_noise=-1.0 must be from 0 to 1"),
        ("simulate.measurements.plain.name=raw", "simulate.measurements.plain: name='raw' is unk"),
        ("simulate=null", "stage=simulate needs the section `simulate`"),
    ],
)
def test_wrong_settings_are_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, override: str, message: str
) -> None:
    ended = run(capfd, tmp_path, *FEW[:1], override, "run_dir=out")
    assert ended.code == 2
    assert message in ended.err
