"""What a run reads from the hub is recorded by the commit that the hub's cache holds."""

import json
from pathlib import Path

import pytest

from tdro_lightning.config.schema import Config
from tdro_lightning.files import write_checked_json
from tdro_lightning.runs.inputs import with_commits
from tdro_lightning.runs.record import reason_to_run, run_record
from tdro_lightning.runs.resume import require_same_run, result_dependencies
from tdro_lightning.stages import stages
from tests.made_hub import COMMIT, hub_cache, snapshot
from tests.test_configs import composed

OTHER = "e" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in whose folder a run would be."""
    monkeypatch.chdir(tmp_path)
    return hub_cache(tmp_path / "cache", monkeypatch)


def evaluation() -> Config:
    return composed(
        "+experiment=evaluate", "+evaluate.encoders.x=some/model", "benchmark=beir_fast"
    )


def test_names_get_the_commit_that_is_in_the_cache(cache: Path) -> None:
    snapshot(cache, "some/model", {"config.json": b"{}"}, kind="model")
    snapshot(cache, "some/set", {"corpus/a.parquet": b"x"}, OTHER)
    given = {
        "model": {"path": "some/model", "sha256": None},
        "hub set a": {"path": "some/set/corpus", "sha256": None},
        "hub set b": {"path": f"some/set@{OTHER}/corpus", "sha256": None},
        "source": {"path": "some/set:rows.jsonl", "sha256": None},
        "encoder y": {"path": "some/other", "sha256": None},
        "domain z": {"path": "rows/z.jsonl", "sha256": "0f"},
        "model of y": {"path": "some/model", "sha256": None, "commit": "known"},
    }
    found = {label: one.get("commit") for label, one in with_commits(given).items()}
    assert found == {
        "model": COMMIT, "hub set a": OTHER, "hub set b": OTHER, "source": OTHER,
        "encoder y": None, "domain z": None, "model of y": "known",
    }  # fmt: skip


def test_a_newer_commit_is_another_input(cache: Path) -> None:
    """Also where the model was downloaded by the run itself."""
    config = evaluation()
    with run_record(stages()[config.stage], config, "command"):
        snapshot(cache, "some/model", {"config.json": b"{}"}, kind="model")
    record = json.loads(Path("run/run.json").read_text())
    expected = {"path": "some/model", "sha256": None, "commit": COMMIT}
    assert record["inputs"]["encoder x"] == expected
    assert reason_to_run(stages()[config.stage], config) is None
    snapshot(cache, "some/model", {"config.json": b"[]"}, OTHER, kind="model")
    assert reason_to_run(stages()[config.stage], config) == "input encoder x changed"
    del record["inputs"]["encoder x"]["commit"]  # as version 0.1.0 recorded it
    write_checked_json(Path("run/run.json"), record)
    assert reason_to_run(stages()[config.stage], config) is None


def test_a_resumed_run_reads_the_same_commit(cache: Path, tmp_path: Path) -> None:
    config = composed("+experiment=finetune_uniform")
    inputs = {"model": {"path": "some/model", "sha256": None}}
    old = result_dependencies(config, inputs)  # nothing is in the cache
    snapshot(cache, "some/model", {"config.json": b"{}"}, kind="model")
    now = result_dependencies(config, inputs)
    assert now["content of model"] == f"some/model@{COMMIT}"
    path = tmp_path / "step-0000002"
    for then, same in (
        (old, True),
        (now, True),
        ({**now, "content of model": f"x@{COMMIT}"}, False),
    ):
        content = {"format": 1, "step": 2, "bytes": 0, "sha256": "", "run": then}
        write_checked_json(path / "manifest.json", content)
        if same:
            require_same_run(path, now)
        else:
            with pytest.raises(ValueError, match="content of model"):
                require_same_run(path, now)
