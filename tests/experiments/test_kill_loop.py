"""The loop of kills, a few of them, with a small model; `make faults` does fifty of the demo's."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.faults import kill_loop
from tests.experiments.conftest import loaded
from tests.made_up import TDRO, write_inputs
from tests.models.test_sparse_encoder import write_llama
from tests.nightly import nightly_but
from tests.processes import in_processes

VECTORS = ("dense", "sparse")


def loop(number: int, folder: Path, kills: int, steps: int, kind: str) -> None:
    """Run the script in a new process, of which the killed ones are copies."""
    os.chdir(folder)
    options = [f"--kills={kills}", f"--steps={steps}", "--runs=runs", "--log=log/kills.txt"]
    options += ["--sparse"] if kind == "sparse" else []
    assert kill_loop.main(["--warm", *options, "--", *TDRO]) == 0, Path("log/kills.txt").read_text()


LOOPS = [(kills, steps, kind) for kills, steps in ((1, 40), (3, 120)) for kind in VECTORS]


@pytest.mark.parametrize(("kills", "steps", "kind"), nightly_but(LOOPS[:2], LOOPS))
def test_a_killed_run_ends_as_one_left_alone(
    tmp_path: Path, kills: int, steps: int, kind: str
) -> None:
    write_inputs(tmp_path)
    if kind == "sparse":
        for name, seed in (("model", 5), ("reference", 6)):
            write_llama(tmp_path / name, tied=True, seed=seed)
    in_processes(1, loop, tmp_path, kills, steps, kind)
    lines = (tmp_path / "log/kills.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["alone:", *["kill"] * kills, "killed:"]
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
