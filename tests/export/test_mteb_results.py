"""Scores in MTEB's JSON, under MTEB's own names."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tdro_lightning.cli import conf_folder
from tdro_lightning.export.lineage import Scores
from tdro_lightning.export.mteb_results import LANGUAGES, TASKS, task_name, write_mteb_results
from tdro_lightning.files import read_json

pytestmark = pytest.mark.filterwarnings("ignore")  # of what mteb imports
ENTRY = {"split": "test", "prompt": None, "language": None, "hub": None, "revision": None}
RECORD = {"started": "2025-01-01T00:00:00+00:00"}


def scores(sets: dict[str, Any], layout: str = "beir", metric: str = "ndcg@10") -> Scores:
    benchmark = {"layout": layout, "root": None, "sets": sets}
    metrics = {name: {metric: 0.25 + i / 8, "queries": 3} for i, name in enumerate(sets)}
    return Scores("top 70", metrics, {metric: 0.3}, benchmark, RECORD)


def test_the_names_and_revisions_are_mteb_s() -> None:
    import mteb

    files = [conf_folder() / f"benchmark/{name}.yaml" for name in ("beir15", "trec_dl")]
    sets = {k: v for file in files for k, v in yaml.safe_load(file.read_text())["sets"].items()}
    assert set(TASKS) < {entry["hub"] for entry in sets.values()}
    for name, entry in sets.items():
        task = task_name({"layout": "beir", "sets": sets}, name)
        dataset = mteb.get_task(task).metadata.dataset
        assert (dataset["path"], dataset["revision"]) == (entry["hub"], entry["revision"])
    languages = mteb.get_task(task_name({"layout": "miracl"}, "miracl-ar")).metadata.eval_langs
    assert {subset: [name] for subset, name in LANGUAGES.items()} == languages


def test_mteb_reads_the_files(tmp_path: Path) -> None:
    from mteb.results import TaskResult

    sets = {
        "scifact": ENTRY | {"hub": "mteb/scifact", "revision": "abc"},
        "own/part": ENTRY,
    }
    assert write_mteb_results(scores(sets), tmp_path) == ["SciFact", "own/part"]
    one = TaskResult.from_disk(tmp_path / "SciFact.json")
    assert (one.task_name, one.dataset_revision, one.get_score()) == ("SciFact", "abc", 0.25)
    assert one.languages == ["eng"]
    other = TaskResult.from_disk(tmp_path / "own-part.json")
    assert other.get_score() == 0.375


def test_languages_of_miracl_are_subsets_of_one_task(tmp_path: Path) -> None:
    sets = {f"miracl-{code}": ENTRY | {"language": code, "split": "dev"} for code in ("ar", "zh")}
    assert write_mteb_results(scores(sets, "miracl"), tmp_path) == ["MIRACLRetrieval"]
    rows = read_json(tmp_path / "MIRACLRetrieval.json")["scores"]["dev"]
    assert [(row["hf_subset"], row["languages"], row["main_score"]) for row in rows] == [
        ("ar", ["ara-Arab"], 0.25),
        ("zh", ["zho-Hans"], 0.375),
    ]


def test_answers_alone_are_no_task_of_mteb_s(tmp_path: Path) -> None:
    assert write_mteb_results(scores({"mkqa-ar": ENTRY}, "mkqa", "accuracy@10"), tmp_path) == []
    assert not list(tmp_path.iterdir())
