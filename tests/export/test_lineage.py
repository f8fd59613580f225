"""What is found in run folders, and what is not believed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.dro.weights_file import WeightsFile, write_weights
from tdro_lightning.errors import DataError
from tdro_lightning.export.lineage import find_training_run, read_scores, read_training
from tdro_lightning.files import fingerprint, write_json


def fitted(folder: Path) -> dict[str, Any]:
    """A fine-tuning run on tDRO's weights, from a hub model."""
    weights = folder / "weights.json"
    write_weights(weights, WeightsFile({"a": 0.8, "b": 0.2}, {"a": 30, "b": 10}))
    record = {
        "name": "tuned",
        "stage": "fit",
        "inputs": {
            "model": {"path": "Qwen/Qwen1.5-0.5B", "sha256": None},
            "weights": {"path": str(weights), "sha256": fingerprint(weights)},
        },
        "config": {
            "domains": {"catalogue": {name: {"prompts": [f"Find {name}"]} for name in "ab"}},
            "transfer": {"kind": "last", "rule": "top_share"},
            "benchmark": {"layout": "beir", "sets": {}},
        },
    }
    run = folder / "tuned"
    write_json(run / "run.json", record)
    usage = {
        "a": {"rows": 30, "epochs": 2.0, "probability": 1.0},
        "b": {"rows": 10, "epochs": 0.0, "probability": 0.0},
    }
    write_json(run / "data_usage.json", usage)
    (run / "encoder").mkdir()
    (run / "encoder/config.json").write_text("{}")
    return record


def evaluated(folder: Path, **encoders: str | None) -> None:
    """A run that evaluated encoders by label, each a path."""
    inputs = {}
    for label, path in encoders.items():
        known = fingerprint(Path(path)) if Path(path).is_dir() else None
        inputs[f"encoder {label}"] = {"path": path, "sha256": known}
    config = {"benchmark": {"layout": "beir", "sets": {}}}
    write_json(folder / "run.json", {"stage": "evaluate", "inputs": inputs, "config": config})
    results = {label: {"sets": {}, "average": {"ndcg@10": i}} for i, label in enumerate(encoders)}
    write_json(folder / "metrics.json", {"retrievers": results})


def test_mix_and_weights_of_the_run(tmp_path: Path) -> None:
    fitted(tmp_path)
    assert find_training_run(str(tmp_path / "tuned/encoder")) == tmp_path / "tuned"
    found = read_training(tmp_path / "tuned")
    assert found.base == "Qwen/Qwen1.5-0.5B"
    assert [(s.domain, s.probability, s.weight, s.prompts) for s in found.shares] == [
        ("a", 1.0, 0.8, ["Find a"]),
        ("b", 0.0, 0.2, ["Find b"]),
    ]


def test_weights_that_changed_since_are_left_out(tmp_path: Path) -> None:
    fitted(tmp_path)
    write_weights(tmp_path / "weights.json", WeightsFile({"a": 0.5, "b": 0.5}, {"a": 3, "b": 1}))
    assert [share.weight for share in read_training(tmp_path / "tuned").shares] == [None, None]


def test_a_local_base_model_has_no_name_elsewhere(tmp_path: Path) -> None:
    record = fitted(tmp_path)
    record["inputs"]["model"] = {"path": "/here/model", "sha256": "00"}
    write_json(tmp_path / "tuned/run.json", record)
    assert read_training(tmp_path / "tuned").base is None


def test_a_folder_of_no_run_and_a_hub_name_have_no_training(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    assert find_training_run(str(tmp_path / "encoder")) is None
    assert find_training_run("Qwen/Qwen1.5-0.5B") is None


def test_scores_are_found_by_content_not_by_label(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(name))
    evaluated(tmp_path / "run", x=str(tmp_path / "one"), y=str(tmp_path / "two"), hub="a/b")
    assert read_scores(tmp_path / "run", str(tmp_path / "two")).label == "y"
    assert read_scores(tmp_path / "run", "a/b").label == "hub"
    (tmp_path / "two/config.json").write_text("changed")
    with pytest.raises(DataError, match=r"it evaluated x, y, hub, and none of them is .*two as it"):
        read_scores(tmp_path / "run", str(tmp_path / "two"))


def test_a_training_run_evaluated_its_own_encoder(tmp_path: Path) -> None:
    fitted(tmp_path)
    results = {"top 70": {"sets": {}, "average": {"ndcg@10": 0.5}}}
    write_json(tmp_path / "tuned/metrics.json", {"retrievers": results})
    assert (
        read_scores(tmp_path / "tuned", str(tmp_path / "tuned/encoder")).average["ndcg@10"] == 0.5
    )
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="it evaluated top 70"):
        read_scores(tmp_path / "tuned", str(tmp_path / "other"))
