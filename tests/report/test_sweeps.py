import json
import re
from pathlib import Path

import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.page import write_sweep_report
from tdro_lightning.report.sweeps import read_sweeps
from tests.report.folders import weights, write_evaluated, write_run

EVIL = "<img src=x>"


def plan(folder: Path, jobs: list[dict[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps({"command": f"sweep {EVIL}", "jobs": jobs}))


def job(folder: Path, swept: dict[str, str], status: str, error: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    code = {"finished": 0, "failed": 3}.get(status)
    record = {"swept": swept, "status": status, "code": code, "error": error}
    (folder / "job.json").write_text(json.dumps(record))


def test_weights_of_a_sweep_stand_side_by_side(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    jobs = [{"module.weights_lr": value} for value in ("0.01", "0.1", EVIL, "1")]
    plan(sweep, jobs)
    for number, (swept, last) in enumerate(zip(jobs, (0.6, 0.9), strict=False)):
        files = {"weights": weights(nq=last, fiqa=1 - last)}
        write_run(sweep, "tdro", folder=str(number), files=files, history={"loss": [2.0, 1.0]})
        job(sweep / str(number), swept, "finished")
    job(sweep / "2", jobs[2], "failed", f"rows.jsonl:7: wrong {EVIL}\nsecond line")
    assert [run.name for run in collect_runs([sweep])] == [
        "tdro [weights_lr=0.01]",
        "tdro [weights_lr=0.1]",
    ]
    text = write_sweep_report(sweep)
    rows = [line.split() for line in text.splitlines()]
    assert ["0.01", "finished", "2.0", "nq", "0.600", "1.000", "3.3"] in rows
    assert ["0.1", "finished", "1.4", "nq", "0.900", "1.000", "3.3"] in rows
    assert re.search(r"failed: rows\.jsonl:7: wrong .*\n +<img src=x>\n", text)
    assert "second line" not in text
    assert ["1", "not", "started", "–", "–", "–", "–"] in rows
    page = (sweep / "report.html").read_text()
    assert "<img" not in page
    assert "4 jobs in" in page
    assert "2 of them not finished" in page
    assert "Domain weights by module.weights_lr" in page
    assert "<img" not in (sweep / "report.md").read_text()


def test_scores_of_seeds_and_values_share_a_plot(tmp_path: Path) -> None:
    """Two shares and two seeds; the baseline of each seed is found through the weights."""
    sweep = tmp_path / "sweep"
    base = {1: [0.2, 0.4], 2: [0.3, 0.5]}
    for seed, scores in base.items():
        write_evaluated(
            tmp_path, "c/base", {"uniform": {"s": scores}}, seed=seed, folder=f"b{seed}"
        )
    jobs = [{"transfer.share": s, "seed": str(n)} for s in ("50", "70") for n in (1, 2)]
    plan(sweep, jobs)
    for number, swept in enumerate(jobs):
        seed, more = int(swept["seed"]), 0.1 if swept["transfer.share"] == "70" else -0.1
        scores = [value + more for value in base[seed]]
        label = f"top {swept['transfer.share']}"
        run = write_evaluated(sweep, "c/x", {label: {"s": scores}}, seed=seed, folder=str(number))
        record = json.loads((run / "run.json").read_text())
        encoder = str(tmp_path / f"b{seed}" / "encoder")
        record["inputs"] = {"reference": {"path": encoder, "sha256": "0"}}
        (run / "run.json").write_text(json.dumps(record))
        job(run, swept, "finished")
    text = write_sweep_report(sweep)
    rows = [line.split() for line in text.splitlines()]
    gains = {(row[0], row[1]): row[3:5] for row in rows if "finished" in row}
    assert gains == {
        ("50", "1"): ["20.0", "-10.0"], ("50", "2"): ["30.0", "-10.0"],
        ("70", "1"): ["40.0", "+10.0"], ("70", "2"): ["50.0", "+10.0"],
    }  # fmt: skip
    plot = [row for row in rows if len(row) == 4 and "●" in row[2]]
    assert [(row[0], row[1], row[3]) for row in plot] == [
        ("50", "1", "20.0"), ("50", "2", "30.0"), ("70", "1", "40.0"), ("70", "2", "50.0"),
    ]  # fmt: skip
    assert [row[2].index("●") for row in plot] == [0, 13, 27, 40]
    assert "nDCG@10 by transfer.share" in (sweep / "report.html").read_text()


def test_rules_stand_in_one_table_against_both_baselines(tmp_path: Path) -> None:
    """Differences and falls are computed once more from the scores that are written."""
    sweep = tmp_path / "sweep"
    scores = {
        "uniform": {"nq": 0.40, "agnews": 0.60, "fiqa": 0.300},
        "proportional": {"nq": 0.50, "agnews": 0.55, "fiqa": 0.295},
        "top 70": {"nq": 0.56, "agnews": 0.53, "fiqa": 0.299},
        "random 70": {"nq": 0.20, "agnews": 0.30, "fiqa": 0.100},
    }
    rules = dict(zip(scores, ("uniform", "proportional", "top_share", "random_share"), strict=True))
    write_evaluated(tmp_path, "reference", {"uniform": {n: [0.9] * 2 for n in scores["uniform"]}})
    plan(sweep, [{"transfer.rule": rule} for rule in rules.values()])
    for number, (label, rule) in enumerate(rules.items()):
        own = {name: [value, value] for name, value in scores[label].items()}
        inputs = {"weights": {"path": str(tmp_path / "reference" / "weights.json"), "sha256": "0"}}
        run = write_evaluated(sweep, "mixture", {label: own}, folder=str(number), inputs=inputs)
        job(run, {"transfer.rule": rule}, "finished")
    lines = write_sweep_report(sweep).splitlines()
    rows = {row[0]: row for line in lines if len(row := line.split()) > 6 and row[1] == "finished"}
    for label, rule in rules.items():
        average = 100 * sum(scores[label].values()) / 3
        expected = [rule, "finished", f"{average:.1f}"]
        for base in ("uniform", "proportional"):
            moved = [100 * (scores[label][n] - scores[base][n]) for n in scores[base]]
            gain, fell = sum(moved) / 3, sum(value < -1 for value in moved)
            expected += [f"{gain:+.1f}", str(fell), "of", "3"] if label != base else ["–", "–"]
        assert [text.rstrip("*†") for text in rows[rule][: len(expected)]] == expected
    assert re.search(
        r"nDCG@10 +vs +Fell +vs +Fell\n.* uniform +> 1 +proportional +> 1", "\n".join(lines)
    )
    assert sum("●" in line for line in lines) == 4
    assert any("| uniform 43.3" in line and "¦ proportional 44.8" in line for line in lines)
    alarm = "  top 70 against uniform (mixture): mean +3.0; of 3 sets, nDCG@10: 1 rose, 1 fell"
    assert lines[lines.index(alarm) + 1].startswith("    agnews -7.0")
    page = (sweep / "report.html").read_text()
    assert page.count("<h4>nDCG@10 by transfer.rule</h4>") == 1
    assert "uniform 43.3" in page
    assert "proportional 44.8" in page


def test_a_sweep_of_which_no_job_began_is_reported(tmp_path: Path) -> None:
    plan(tmp_path, [{"seed": "1"}, {"seed": "2"}])
    text = write_sweep_report(tmp_path)
    assert text.count("not started") == 2
    assert "<svg" not in (tmp_path / "report.html").read_text()


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(DataError, match=r"sweep\.json: must be a JSON object with command, jobs"):
        read_sweeps([tmp_path])
