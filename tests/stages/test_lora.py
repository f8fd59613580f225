"""Reference and proxy as adapters of one base model, as a user runs them."""

import json
from pathlib import Path

import pytest

from tests.command import run
from tests.made_up import tiny_model, write_domain_option, write_domains

ARGUMENTS = (
    "--config-dir=conf", "domains=made", "model.path=model", "data.batch_size=12",
    "data.query_tokens=40", "data.passage_tokens=16", "data.workers=0", "trainer.steps=2",
    "trainer.precision=32-true", "trainer.chunk_tokens=100", "trainer.kept_tokens=400",
    "logger.wandb=disabled",
)  # fmt: skip


def test_the_base_model_is_held_once(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_domain_option(tmp_path, write_domains(tmp_path / "rows"))
    tiny_model(tmp_path / "model")
    reference = (*ARGUMENTS, "+experiment=reference_qwen05b", "data.negatives=1")
    ended = run(capfd, tmp_path, *reference, "run_dir=reference")
    assert ended.code == 0, ended.err
    tdro = (*ARGUMENTS, "+experiment=tdro_qwen05b", "module.reference=reference/encoder")
    ended = run(capfd, tmp_path, *tdro, "run_dir=tdro")
    assert ended.code == 0, ended.err
    log = (tmp_path / "tdro" / "tdro_lightning.log").read_text()
    assert "reference/encoder: an adapter on the proxy's base model, which is held once" in log
    weights = json.loads((tmp_path / "tdro" / "weights.json").read_text())["domain_weights"]
    assert sum(weights.values()) == pytest.approx(1)
    history = (tmp_path / "tdro" / "history.csv").read_text()
    assert [line[-3:] for line in history.splitlines() if "one_pass" in line] == ["1.0", "1.0"]
