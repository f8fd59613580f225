import json
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.gains import compare_with_baselines
from tdro_lightning.report.identity import set_notes
from tdro_lightning.report.layouts import layout_tables
from tdro_lightning.report.page import write_report, write_sweep_report
from tdro_lightning.report.paper_tables import read_paper_tables
from tdro_lightning.report.result_tables import score_table
from tdro_lightning.report.results import baseline_pairs, results_by_run, results_over_seeds
from tests.report.folders import write_evaluated, write_run

ONE, TWO = "1a" * 32, "2b" * 32
LOW, HIGH = [0.1, 0.2, 0.3], [0.4, 0.6, 0.9]  # of queries q0, q1, q2 in any set


def files(name: str, sha256: str) -> dict[str, Any]:
    return {f"set {name}": {"path": f"eval/{name}", "sha256": sha256}}


def gained(folder: Path) -> list[str]:
    """The sets on which something is compared with the baseline."""
    pairs = baseline_pairs(results_over_seeds(collect_runs([folder])), "uniform")
    return [name for one in compare_with_baselines(pairs, "ndcg@10") for name in one.sets]


def test_queries_of_different_sets_are_never_paired(tmp_path: Path) -> None:
    write_evaluated(
        tmp_path, "c/base", {"uniform": {"nq": LOW, "fiqa": LOW}}, sha256={"nq": ONE, "fiqa": ONE}
    )
    write_evaluated(
        tmp_path, "c/x", {"top 70": {"nq": HIGH, "fiqa": HIGH}}, sha256={"nq": TWO, "fiqa": ONE}
    )
    assert gained(tmp_path) == ["fiqa"]
    table = score_table(results_by_run(collect_runs([tmp_path])), "ndcg@10")
    assert [column.title for column in table.columns[3:]] == [
        "nq [1a1a1a1a]", "fiqa", "nq [2b2b2b2b]",
    ]  # fmt: skip
    assert [[cell.text for cell in row[1:3]] for row in table.rows] == [
        ["20.0", "–"], ["63.3", "+43.3"],
    ]  # fmt: skip
    shown = write_report([tmp_path], tmp_path / "out", "Two sets")
    line = (
        "These evaluation sets have one name and differ in queries, corpus or judgements, so their "
        "scores are not compared: nq [1a1a1a1a] in c/base; nq [2b2b2b2b] in c/x."
    )
    assert line in shown
    for name in ("report.html", "report.md", "tables.tex"):
        text = (tmp_path / "out" / name).read_text().replace("\\", "")
        assert line in text, name
    (found,) = json.loads((tmp_path / "out" / "significance.json").read_text())
    assert list(found["sets"]) == ["fiqa"]


def test_without_a_set_in_common_there_is_no_gain(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "c/base", {"uniform": {"nq": LOW}}, sha256={"nq": ONE})
    write_evaluated(tmp_path, "c/x", {"top 70": {"nq": HIGH}}, sha256={"nq": TWO})
    assert gained(tmp_path) == []
    shown = write_report([tmp_path], tmp_path / "out", "Two sets")
    assert "no table of gains (top 70: no evaluation set in common with the baseline)" in shown
    assert "Gain in nDCG@10" not in (tmp_path / "out" / "tables.tex").read_text()


def test_seeds_on_different_sets_are_not_averaged(tmp_path: Path) -> None:
    for seed, sha256 in ((1, ONE), (2, TWO)):
        for label, scores in (("uniform", LOW), ("top 70", HIGH)):
            write_evaluated(
                tmp_path, f"s/{label}", {label: {"nq": scores, "fiqa": scores}}, seed=seed,
                folder=f"{seed}{label}", sha256={"nq": sha256, "fiqa": ONE},
            )  # fmt: skip
    result = results_over_seeds(collect_runs([tmp_path]))[0]
    assert list(result.by_seed) == [1, 2]
    assert result.common_sets("ndcg@10") == ["fiqa"]
    assert gained(tmp_path) == ["fiqa"]


def test_the_paper_s_rows_stand_beside_no_other_set(tmp_path: Path) -> None:
    names = [n for n in read_paper_tables()["tables"]["11"]["sets"] if n != "cqadupstack"]
    names.append("cqadupstack/tex")
    for step, label in (("base", "uniform"), ("x", "top 70")):
        write_evaluated(
            tmp_path, f"c/{step}", {label: dict.fromkeys(names, LOW)},
            sha256=dict.fromkeys(names, ONE) | {"nq": ONE if label == "uniform" else TWO},
        )  # fmt: skip
    runs = collect_runs([tmp_path])
    results = results_over_seeds(runs)
    tables = layout_tables(results, baseline_pairs(results, "uniform"))
    assert not any("Published" in row[0].text for table in tables for row in table.rows)


def test_sweeps_average_over_the_sets_that_all_jobs_have(tmp_path: Path) -> None:
    jobs = [{"seed": "1"}, {"seed": "2"}]
    (tmp_path / "sweep.json").write_text(json.dumps({"command": "sweep", "jobs": jobs}))
    for number, (swept, sha256) in enumerate(zip(jobs, (ONE, TWO), strict=True)):
        run = write_evaluated(
            tmp_path, "x", {"top 70": {"nq": HIGH, "fiqa": LOW}}, seed=number,
            folder=str(number), sha256={"nq": sha256, "fiqa": ONE},
        )  # fmt: skip
        record = {"swept": swept, "status": "finished", "code": 0, "error": None}
        (run / "job.json").write_text(json.dumps(record))
    text = write_sweep_report(tmp_path)
    assert "not compared: nq [1a1a1a1a] in x [seed=1]; nq [2b2b2b2b] in x [seed=2]." in text
    rows = [line.split() for line in text.splitlines()]
    assert [row[2] for row in rows if row[1:2] == ["finished"]] == ["20.0", "20.0"]


def test_older_runs_are_distinguished_by_the_files_of_their_sets(tmp_path: Path) -> None:
    for number, (label, sha256) in enumerate((("uniform", ONE), ("a", ONE), ("b", TWO))):
        write_evaluated(
            tmp_path, f"c/{number}", {label: {"nq": LOW}}, inputs=files("nq", sha256)
        )  # fmt: skip
    runs = collect_runs([tmp_path])
    pairs = baseline_pairs(results_over_seeds(runs), "uniform")
    assert [result.name for result, _ in pairs] == ["a"]
    assert "nq [files 1a1a1a1a] in c/0, c/1; nq [files 2b2b2b2b] in c/2" in set_notes(runs)[0]


def test_what_is_not_recorded_is_compared_by_name_and_the_report_says_so(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "c/base", {"uniform": {"nq": LOW}}, inputs=files("nq", ONE))
    write_evaluated(tmp_path, "c/x", {"a": {"nq": HIGH}}, sha256={"nq": TWO})
    write_evaluated(tmp_path, "c/y", {"b": {"nq": HIGH}})
    assert gained(tmp_path) == ["nq", "nq"]
    assert set_notes(collect_runs([tmp_path])) == [
        "Whether all runs used the same evaluation set is not recorded for nq (in c/base, c/x, "
        "c/y); scores there are compared by the set's name."
    ]
    # Once two are known to differ, what is not recorded is taken for neither.
    write_evaluated(tmp_path, "c/z", {"d": {"nq": HIGH}}, sha256={"nq": ONE})
    assert gained(tmp_path) == []
    assert "nq [not recorded] in c/y" in set_notes(collect_runs([tmp_path]))[0]


def test_sets_that_agree_need_no_note(tmp_path: Path) -> None:
    for number, label in enumerate(("uniform", "a")):
        write_evaluated(tmp_path, f"c/{number}", {label: {"nq": LOW}}, sha256={"nq": ONE})
    write_evaluated(tmp_path, "c/alone", {"b": {"other": LOW}})
    assert set_notes(collect_runs([tmp_path])) == []
    assert gained(tmp_path) == ["nq"]


def test_a_fingerprint_that_is_none_is_named(tmp_path: Path) -> None:
    run = write_evaluated(tmp_path, "r", {"uniform": {"nq": LOW}}, sha256={"nq": ""})
    with pytest.raises(DataError, match=r"metrics\.json: `sets\.nq\.sha256` must be a string"):
        collect_runs([run])


def test_a_model_from_the_hub_has_no_fingerprint(tmp_path: Path) -> None:
    inputs = {"model": {"path": "Qwen/Qwen1.5-1.8B", "sha256": None}}
    run = write_evaluated(tmp_path, "r", {"uniform": {"nq": LOW}}, inputs=inputs)
    write_report([run], tmp_path / "out", "Hub")
    assert "model: Qwen/Qwen1.5-1.8B, SHA-256 –" in (tmp_path / "out" / "report.md").read_text()


def write_two_evaluations(folder: Path, again: list[float]) -> None:
    """A run that evaluated its own encoder, and stage `evaluate` on that and another."""
    for step, label in (("top70", "top 70"), ("uniform", "uniform")):
        run = write_evaluated(folder, step, {label: {"nq": HIGH}}, model="m")
        (run / "encoder").mkdir()
    inputs = {
        f"encoder {label}": {"path": str(folder / step / "encoder"), "sha256": ONE}
        for label, step in (("mine", "top70"), ("uniform", "uniform"))
    }
    scores = {"mine": {"nq": again, "fiqa": HIGH}, "uniform": {"nq": HIGH, "fiqa": LOW}}
    write_evaluated(folder, "evaluate", scores, model="m", stage="evaluate", inputs=inputs)


def test_a_model_that_two_runs_evaluated_is_listed_once(tmp_path: Path) -> None:
    write_two_evaluations(tmp_path, HIGH)
    runs = collect_runs([tmp_path])
    assert [result.name for result in results_by_run(runs)] == ["uniform", "top 70"]
    (top,) = (one for run in runs for one in run.retrievers if one.label == "top 70")
    assert list(top.sets) == ["nq", "fiqa"]
    assert top.sets["nq"].per_query.parent.parent.parent.name == "top70"
    assert gained(tmp_path) == ["nq", "fiqa"]


def test_evaluations_that_disagree_both_stay(tmp_path: Path) -> None:
    write_two_evaluations(tmp_path, LOW)
    names = [result.name for result in results_by_run(collect_runs([tmp_path]))]
    assert names == ["uniform", "mine", "top 70"]


def test_an_encoder_that_is_gone_is_no_other(tmp_path: Path) -> None:
    write_run(tmp_path, "bare")
    for step in ("a", "b"):
        write_evaluated(tmp_path, step, {"mine": {"nq": HIGH}})
    assert len(results_by_run(collect_runs([tmp_path]))) == 2
