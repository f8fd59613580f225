"""Run folders and checkpoints of version 0.1.0 (commit 439536d), as they lie on users' disks.

`tests/old_runs/version_0_1_0.tar.gz` holds what that version wrote with one thread: `tdro` is a
tDRO run of six steps, `stopped` the same run stopped after its first step, and `finetuned` was
trained with the weights of `tdro`.
"""

import csv
import json
import tarfile
from pathlib import Path

import pytest

from tdro_lightning.assembly import domains
from tdro_lightning.dro.weights_file import read_weights
from tests.command import run
from tests.made_up import TDRO
from tests.malformed.models import loaded

ARCHIVE = Path(__file__).parents[1] / "old_runs/version_0_1_0.tar.gz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture(autouse=True)
def any_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompts of these runs left no token for a query, which was not refused then."""
    monkeypatch.setattr(domains, "LEAST_QUERY_TOKENS", -100)


def history(run_dir: Path) -> dict[tuple[str, str], float]:
    with (run_dir / "history.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        (row["step"], row["metric"]): float(row["value"])
        for row in rows
        if not row["metric"].startswith("speed/")
    }


def test_a_stopped_run_resumes_and_ends_as_it_would_have_then(folder: Path, capfd) -> None:
    """To rounding: another processor may sum in another order."""
    ended = run(capfd, folder, *TDRO, "data.query_tokens=16", "trainer.steps=6", "run_dir=stopped")
    assert ended.code == 0, ended.err
    assert "resuming at step 1 of 6" in ended.out
    ours, theirs = history(folder / "stopped"), history(folder / "tdro")
    assert ours.keys() == theirs.keys()
    assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=1e-5, abs=1e-7)
    weights = [read_weights(folder / name / "weights.json").last for name in ("stopped", "tdro")]
    assert weights[0] == pytest.approx(weights[1], rel=1e-6)


def test_its_weights_and_encoder_are_read(folder: Path, capfd) -> None:
    file = read_weights(folder / "tdro/weights.json")
    assert sum(file.weights("last").values()) == pytest.approx(1)
    assert not file.has_checksum
    encoder = loaded(folder / "finetuned/encoder")
    assert encoder.embed_queries(["red stone"], None).shape[0] == 1
    finetuning = (
        *("--config-dir=conf", "+experiment=finetune_reweight", "domains=made", "model.lora=null"),
        *("model.path=model", "data.batch_size=6", "data.query_tokens=16", "data.workers=0"),
        *("data.passage_tokens=16", "trainer.precision=32-true", "logger.wandb=disabled"),
        *("trainer.steps=4", "transfer.weights=tdro/weights.json", "run_dir=again"),
    )
    ended = run(capfd, folder, *finetuning)
    assert ended.code == 0, ended.err
    assert "tdro/weights.json: has no checksum" in ended.out
    files = ("again/mixture.yaml", "finetuned/mixture.json")
    mixtures = [read_weights(folder / file).last for file in files]
    assert mixtures[0] == pytest.approx(mixtures[1])
    ours, theirs = history(folder / "again"), history(folder / "finetuned")
    assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=1e-5, abs=1e-7)


def test_the_report_reads_its_runs(folder: Path, capfd) -> None:
    runs = "report.runs=[tdro,finetuned]"
    ended = run(capfd, folder, "+experiment=report", runs, "run_dir=report")
    assert ended.code == 0, ended.err
    page = (folder / "report/report.md").read_text(encoding="utf-8")
    for domain in ("easy", "middle", "hard"):
        assert domain in page
    assert json.loads((folder / "report/run.json").read_text())["status"] == "finished"
