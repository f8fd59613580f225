"""What a run has written is read as it was written, or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.export.mixture_formats import FORMATS
from tdro_lightning.records.outputs import (
    RESULTS,
    clear_outputs,
    damaged_outputs,
    describe_outputs,
    require_intact,
)
from tdro_lightning.stages import stages


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished fine-tuning."""
    folder = tmp_path / "run"
    for name in ("encoder/model.safetensors", "encoder/tok/tokenizer.json", "per_query/a/b.json"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    for name in ("metrics.json", "history.csv", "notes.txt"):
        (folder / name).write_text(name)
    write_record(folder)
    return folder


def write_record(folder: Path, **changes: Any) -> dict[str, Any]:
    results = stages()["fit"].outputs
    outputs = describe_outputs(folder, results)
    record = {"stage": "fit", "status": "finished", "command": "the command", "outputs": outputs}
    record["results"] = list(results)
    (folder / "run.json").write_text(json.dumps(record | changes))
    return record | changes


def test_an_untouched_result_passes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert require_intact(run / "encoder")
    assert require_intact(run / "encoder/tok/tokenizer.json")
    assert require_intact(run)
    monkeypatch.chdir(run)
    assert require_intact(Path("encoder"))
    (run.parent / "link").symlink_to(run / "encoder")
    assert require_intact(run.parent / "link")


def test_old_records_name_no_results_and_are_checked_all_the_same(run: Path) -> None:
    """Those of version 0.1.0: the names of the results of all its stages count."""
    later = {"mixture.yaml", "best_step.json", "data_view.json", "sparse_vectors.json", *FORMATS}
    record = json.loads((run / "run.json").read_text())
    del record["results"]
    assert {name for stage in stages().values() for name in stage.outputs} - {*RESULTS} == {
        *stages()["report"].outputs,
        *later,
    }
    (run / "run.json").write_text(json.dumps(record))
    assert require_intact(run / "encoder")
    (run / "encoder/extra.json").write_text("{}")
    with pytest.raises(DataError, match=r"encoder/extra.json was added after the run"):
        require_intact(run / "encoder")


def test_what_is_no_result_is_passed_over(run: Path) -> None:
    (run / "notes.txt").write_text("other words")
    assert not require_intact(run / "notes.txt")
    assert not require_intact(run.parent)
    assert not require_intact(run.parent / "nothing")


@pytest.mark.parametrize("status", ["running", "stopped", "failed", "time_limit", "interrupted"])
def test_results_of_an_unfinished_run_are_refused(run: Path, status: str) -> None:
    write_record(run, status=status)
    with pytest.raises(DataError, match=rf"not finished \(status: {status}\).*the command"):
        require_intact(run / "encoder")


def test_damage_is_named_where_it_is_read_and_nowhere_else(run: Path) -> None:
    path = run / "encoder/model.safetensors"
    content = path.read_text()
    path.write_text(content.replace("content", "kontent"))
    with pytest.raises(DataError, match=r"model.safetensors has another SHA-256 than the record"):
        require_intact(run / "encoder")
    assert require_intact(run / "metrics.json")
    path.write_text(content + " ")
    with pytest.raises(DataError, match=rf"has {len(content) + 1} bytes instead of {len(content)}"):
        require_intact(run / "encoder")
    path.unlink()
    with pytest.raises(DataError, match=r"model.safetensors is missing"):
        require_intact(run / "encoder")
    path.write_text(content)
    assert require_intact(run / "encoder")
    (run / "encoder/extra.json").write_text("{}")
    with pytest.raises(DataError, match=r"encoder/extra.json was added after the run"):
        require_intact(run / "encoder")
    assert require_intact(run / "encoder/tok")


def test_a_change_of_the_same_size_and_time_is_noticed(run: Path) -> None:
    import os

    path = run / "metrics.json"
    times = path.stat()
    assert require_intact(path)
    path.write_text("METRICS.json")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match="another SHA-256"):
        require_intact(path)


def test_a_finished_run_s_results_are_kept_aside(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    clear_outputs(run, record, resume=False)
    left = {path.name for path in run.iterdir()}
    assert left == {"run.json", "notes.txt", "previous"}
    kept = {path.relative_to(run / "previous").as_posix() for path in run.rglob("previous/**/*.*")}
    assert kept == {*record["outputs"], "record.json"}
    with pytest.raises(StopIteration):
        next(run.glob("previous/**/run.json"))  # nothing there is a run


def test_an_unfinished_one_s_are_removed_but_for_what_is_resumed(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "previous").mkdir()
    clear_outputs(run, record | {"status": "stopped"}, resume=True)
    assert {p.name for p in run.iterdir()} == {"run.json", "notes.txt", "previous", "history.csv"}
    assert not list((run / "previous").iterdir())


def test_a_finished_run_that_is_resumed_keeps_its_history_in_both_places(run: Path) -> None:
    clear_outputs(run, json.loads((run / "run.json").read_text()), resume=True)
    for place in (run, run / "previous"):
        assert (place / "history.csv").read_text() == "history.csv"


@pytest.mark.parametrize("stage", stages())
def test_every_result_of_every_stage_is_described_and_checked(tmp_path: Path, stage: str) -> None:
    results = stages()[stage].outputs
    for name in results:
        path = tmp_path / name if "." in name else tmp_path / name / "inside" / "file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    outputs = describe_outputs(tmp_path, results)
    assert len(outputs) == len(results)
    record = {"stage": stage, "status": "finished", "command": "it", "outputs": outputs}
    record["results"] = list(results)
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert not list(damaged_outputs(tmp_path, record))
    for name in outputs:
        (tmp_path / name).write_text("kontent")
        assert [str(tmp_path / name) in line for line in damaged_outputs(tmp_path, record)] == [
            True
        ]
        with pytest.raises(DataError, match="another SHA-256"):
            require_intact(tmp_path / name)
        (tmp_path / name).write_text("content")
    shutil.rmtree(tmp_path)
