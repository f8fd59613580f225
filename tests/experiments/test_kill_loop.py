"""The loop of kills, three of them, with a small model; `make faults` does fifty of the demo's."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.experiments.conftest import EXPERIMENTS, loaded
from tests.made_up import TDRO, write_inputs


def test_a_killed_run_ends_as_one_left_alone(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    script = EXPERIMENTS / "faults/kill_loop.py"
    options = ["--warm", "--kills=3", "--steps=120", "--runs=runs", "--log=log/kills.txt", "--"]
    ended = subprocess.run(
        [sys.executable, str(script), *options, *TDRO],
        cwd=tmp_path, capture_output=True, text=True, timeout=250,
        env={**os.environ, "PYTHONPATH": str(EXPERIMENTS.parent)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = (tmp_path / "log/kills.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["alone:", "kill", "kill", "kill", "killed:"]
    assert "bit for bit those of the run left alone" in lines[-1]


def test_what_differs_is_named(tmp_path: Path) -> None:
    """The comparison sees a bit, a line of the history, and a file left over."""
    import torch

    from tdro_lightning.files import write_json
    from tdro_lightning.training.checkpoint import write_checkpoint

    script = loaded("faults/kill_loop.py")
    ours, theirs = SimpleNamespace(path=tmp_path / "a"), SimpleNamespace(path=tmp_path / "b")
    for one in (ours, theirs):
        weight = torch.ones(3)
        state = {"state_dict": {"w": weight}, "optimizer_states": [], "domain_weights": {}}
        write_checkpoint(one.path / "checkpoints/step-0000002", state | {"global_step": 2})
        write_json(one.path / "weights.json", {"easy": 1.0})
        (one.path / "history.csv").write_text("step,metric,value\n0,loss,1.0\n0,speed/x,5\n")
    assert script.differences(ours.path, theirs.path) == []
    state["state_dict"]["w"] = torch.tensor([1.0, 1.0, 1.0000001])
    write_checkpoint(ours.path / "checkpoints/step-0000002", state | {"global_step": 2})
    (ours.path / "history.csv").write_text("step,metric,value\n0,loss,1.5\n0,speed/x,7\n")
    (ours.path / ".x.tmp").touch()
    write_json(ours.path / "weights.json", {"easy": 0.9})
    assert script.differences(ours.path, theirs.path) == [
        "history.csv", "weights.json", "file .x.tmp in one of them", "state_dict",
    ]  # fmt: skip
