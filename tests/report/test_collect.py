import json
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.report.collect import collect_runs, natural_order
from tests.report.folders import metrics, weights, write_run


def test_run_with_nothing_but_its_record_is_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "demo/bare", seconds=None, git_commit=None)
    (run,) = collect_runs([folder])
    assert (run.name, run.stage, run.seed, run.seconds) == ("demo/bare", "fit", 42, None)
    assert (run.retrievers, run.weights, run.history, run.usage) == ((), (), {}, ())
    assert run.hardware == {"device": "cpu", "count": "2"}
    assert run.inputs[0].sha256 == "0f" * 32


def test_all_files_of_a_run_are_read(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        "demo/full",
        history={"loss": [2.0, 1.0], "weights/a,b/c": [0.5, 0.75]},
        files={
            "metrics": metrics(uniform={"nq": {"ndcg@10": 0.25}}),
            "weights": weights(a=0.75, b=0.25),
            "data_usage": {"a": {"rows": 4, "drawn": 6, "epochs": 1.5, "probability": 0.5}},
        },
    )
    (run,) = collect_runs([tmp_path])
    (one,) = run.retrievers[0].sets.values()
    assert (list(run.retrievers[0].sets), one.scores, one.queries) == (["nq"], {"ndcg@10": 0.25}, 7)
    assert [(w.domain, w.last, w.mean) for w in run.weights] == [("a", 0.75, 0.5), ("b", 0.25, 0.5)]
    assert run.history["loss"].values == (2.0, 1.0)
    assert run.series("weights/")["a,b/c"].steps == (1, 2)
    assert (run.usage[0].rows, run.usage[0].epochs) == (4, 1.5)


def test_weights_without_mean_and_moving_average_are_read(tmp_path: Path) -> None:
    file = weights(a=1.0)
    del file["mean_weights"], file["ema_weights"]
    (run,) = collect_runs([write_run(tmp_path, "r", files={"weights": file})])
    assert (run.weights[0].last, run.weights[0].mean, run.weights[0].ema) == (1.0, None, None)


def test_a_step_logged_again_after_a_resume_counts_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "r", history={"loss": [3.0, 2.0]})
    with (folder / "history.csv").open("a") as stream:
        stream.write("2,loss,5.0\n1,lr,0.1\n")
    (run,) = collect_runs([folder])
    assert run.history["loss"].steps == (1, 2)
    assert run.history["loss"].values == (3.0, 5.0)


def test_runs_stand_in_natural_order_and_once(tmp_path: Path) -> None:
    for share in (100, 50, 70):
        write_run(tmp_path, f"sweep/top{share}")
    runs = collect_runs([tmp_path, tmp_path / "sweep", tmp_path / "sweep" / "top50"])
    assert [run.name for run in runs] == ["sweep/top50", "sweep/top70", "sweep/top100"]


def test_the_steps_of_a_chain_are_found_and_the_chain_itself_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "demo", stage="chain")
    write_run(tmp_path, "demo/tdro")
    write_run(tmp_path, "demo/report", stage="report")
    assert [run.name for run in collect_runs([tmp_path / "demo"])] == ["demo/tdro"]


def test_equal_run_names_get_their_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "x", "r")
    write_run(tmp_path / "y", "r")
    names = [run.name for run in collect_runs([tmp_path])]
    assert names == [f"r [{tmp_path.as_posix()}/x/r]", f"r [{tmp_path.as_posix()}/y/r]"]


def test_natural_order_mixes_words_and_numbers() -> None:
    assert sorted(["b", "10", "a2", "a10", "9", ""], key=natural_order) == [
        "",
        "9",
        "10",
        "a2",
        "a10",
        "b",
    ]


def test_missing_folders_and_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run folders given"):
        collect_runs([])
    with pytest.raises(DataError, match="gone: no such folder"):
        collect_runs([tmp_path / "gone"])
    with pytest.raises(DataError, match=r"no run\.json in it or below it"):
        collect_runs([tmp_path])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", "{", r"run\.json: not valid JSON"),
        ("run.json", "[]", r"run\.json must be a JSON object, is \[\]"),
        ("run.json", '{"name": ""}', r"`name` must be a string that is not empty, is ''"),
        ("run.json", '{"name": "r"}', "`stage` must be a string that is not empty, is missing"),
        ("metrics.json", '{"retrievers": 3}', "`retrievers` must be a JSON object, is 3"),
        (
            "metrics.json",
            '{"retrievers": {"u": {"sets": {"nq": {"ndcg@10": 1e999, "queries": 3}}}}}',
            r"`retrievers\.u\.sets`, `nq\.ndcg@10` must be a finite number, is inf",
        ),
        (
            "metrics.json",
            '{"retrievers": {"u": {"sets": {"nq": {"ndcg@10": 0.5}}}}}',
            r"`nq\.queries` must be a whole number from 0, is missing",
        ),
        ("weights.json", "{}", "it has no key `domain_weights`"),
        (
            "weights.json",
            '{"domain_weights": {"a": "1"}, "size": {"a": 1}}',
            r"`domain_weights\.a` must be a weight of 0 or more, is '1'",
        ),
        ("weights.json", '{"domain_weights": {"a": 1}}', r"`size\.a` must be a .*, is missing"),
        ("data_usage.json", '{"a": {"rows": true}}', r"`a\.rows` must be a whole number from 0"),
        ("history.csv", "step,loss\n1,2\n", "1: the header must be `step,metric,value`"),
        ("history.csv", "step,metric,value\n1,loss,2\nx,loss,1\n", r"csv:3: .* got 'x,loss,1'"),
        ("history.csv", "step,metric,value\n1,loss\n", r"csv:2: .* got '1,loss'"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, file: str, content: str, message: str) -> None:
    folder = write_run(tmp_path, "r")
    (folder / file).write_text(content)
    with pytest.raises(DataError, match=message):
        collect_runs([folder])


def test_history_that_is_not_text_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "r")
    (folder / "history.csv").write_bytes(b"step,metric,value\n1,\xff,2\n")
    with pytest.raises(DataError, match=r"history\.csv: not a UTF-8 CSV file"):
        collect_runs([folder])


@pytest.mark.parametrize("key", ["name", "stage", "status"])
def test_required_keys_of_the_record(tmp_path: Path, key: str) -> None:
    folder = write_run(tmp_path, "r")
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    del record[key]
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=f"`{key}` must be a string that is not empty, is missing"):
        collect_runs([folder])


@pytest.mark.parametrize("value", ["a text", [3], [""]])
def test_warnings_are_a_list_of_texts(tmp_path: Path, value: Any) -> None:
    assert collect_runs([write_run(tmp_path / "a", "r", warnings=["a"])])[0].warnings == ("a",)
    with pytest.raises(DataError, match=r"run\.json: `warnings` must be a"):
        collect_runs([write_run(tmp_path / "b", "r", warnings=value)])
