"""The simulation of the measurements as a user runs it, with few steps."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments/measurement_simulation/simulate.py"
FEW = ("--steps", "15", "--rows", "100")


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the script in this process, with a folder to write to and arguments."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    main = runpy.run_path(str(SCRIPT))["main"]
    return lambda folder, *arguments: main(["--output", str(folder), *arguments])


def test_it_writes_the_table_and_all_numbers(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--output", "out", *FEW, "--seeds", "5", "6"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    content = json.loads((tmp_path / "out/simulation.json").read_text())
    assert content["settings"]["seeds"] == [5, 6]
    assert content["published"]["spearman_of_losses"] == pytest.approx(0.9, abs=0.01)
    assert len(content["measurements"]) == 12
    assert content["settings"]["measurements"].keys() == content["measurements"].keys()
    released = content["measurements"]["released"]["static"]
    assert len(released["spearman"]) == 2
    assert sum(released["weights"].values()) == pytest.approx(1)
    table = (tmp_path / "out/simulation.md").read_text()
    assert "max/min 263, 15.0 effective domains" in table
    for label in content["measurements"]:
        assert label in table
        assert label in ended.stdout


def test_the_recorded_numbers_are_of_the_same_form_and_settings(simulate, tmp_path: Path) -> None:
    recorded = json.loads((SCRIPT.parent / "simulation.json").read_text())
    simulate(tmp_path / "out", *FEW, "--seeds", "0", "1")
    content = json.loads((tmp_path / "out/simulation.json").read_text())
    few = {"steps": 15, "rows": 100, "seeds": [0, 1]}
    assert content["settings"] == recorded["settings"] | few
    assert content["published"].keys() == recorded["published"].keys()
    for key, value in recorded["published"].items():
        assert content["published"][key] == pytest.approx(value)
    for label, proxies in recorded["measurements"].items():
        assert proxies["static"].keys() == content["measurements"][label]["static"].keys()


def test_the_same_settings_give_the_same_bytes(simulate, tmp_path: Path) -> None:
    for name in ("one", "two"):
        simulate(tmp_path / name, *FEW, "--seeds", "1", "2")
    for name in ("simulation.json", "simulation.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seeds 1", "--seeds=[1] must be two different seeds or more"),
        ("--rows 0", "--rows=0 must be above 0"),
        ("--margin-std 0", "--margin-std=0.0 must be above 0"),
        ("--proxy-noise -1", "--proxy-noise=-1.0 must be 0 or more"),
    ],
)
def test_wrong_settings_are_refused(
    simulate, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        simulate(tmp_path / "out", *arguments.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
