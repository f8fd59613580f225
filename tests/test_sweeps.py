"""Sweeps through a launcher that runs each job in a process of its own, as on a cluster."""

import json
import subprocess
import sys
from pathlib import Path

SWEEP = (
    "-m", "+experiment=measurement_simulation", "hydra/launcher=submitit_local",
    "hydra.sweep.dir=sweep", "simulate.steps=3", "simulate.rows=50",
)  # fmt: skip


def swept(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tdro_lightning", *SWEEP, *overrides],
        cwd=folder, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def test_every_job_has_its_run(tmp_path: Path) -> None:
    ended = swept(tmp_path, "seed=1,2")
    assert ended.returncode == 0, ended.stderr
    records = [json.loads(p.read_text()) for p in sorted(tmp_path.rglob("run.json"))]
    assert [(r["seed"], r["status"]) for r in records] == [(1, "finished"), (2, "finished")]


def test_a_refused_job_does_not_stop_the_others_and_is_told(tmp_path: Path) -> None:
    ended = swept(tmp_path, "simulate.proxy_noise=-1,1")
    assert ended.returncode == 2
    assert "error: simulate.proxy_noise=-1.0 must be 0 or more" in ended.stderr
    (record,) = tmp_path.rglob("run.json")
    assert json.loads(record.read_text())["status"] == "finished"
