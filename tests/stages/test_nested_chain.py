"""A chain within a chain, and steps of every kind that a chain asks whether they have run."""

from pathlib import Path

from tests.command import run
from tests.made_up import write_cheap_inputs

INNER = """\
# @package _global_
description: "A chain of one step"
stage: chain
chain:
  steps:
    rows: [validate, 'domains=made']
"""
OUTER = """\
# @package _global_
description: "A chain of a chain and a workspace"
stage: chain
chain:
  steps:
    inner: [inner]
    space: [wandb_workspace, 'workspace.entity=me']
"""


def test_a_step_of_every_kind_may_be_run_again(tmp_path: Path, capfd, monkeypatch) -> None:
    """A chain and a workspace are run every time; what lies in the inner chain is skipped."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody is logged in there
    for name, content in (("inner", INNER), ("outer", OUTER)):
        path = tmp_path / "conf/experiment" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    write_cheap_inputs(tmp_path)
    printed = []
    for _ in range(2):
        ended = run(capfd, tmp_path, "--config-dir=conf", "+experiment=outer", "run_dir=run")
        assert ended.code == 2
        assert "nobody is logged in" in ended.err
        printed.append(ended.out)
    assert "finished before" not in printed[0]
    assert "[1/1] rows: finished before, nothing changed" in printed[1]
    assert "[2/2] space: finished before" not in printed[1]
