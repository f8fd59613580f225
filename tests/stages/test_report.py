"""Evaluation and report as a user runs them, on made-up sets."""

import json
from pathlib import Path

import pytest

from tests.fixtures.evaluation import JUDGED

GIVEN = ("--config-dir=conf",)


@pytest.fixture
def folder(judged_folder: Path) -> Path:
    return judged_folder


def test_an_evaluation_ends_in_tables_with_tests(command, folder: Path) -> None:
    ended = command(
        "+experiment=evaluate", "benchmark=made", "model=tiny", "model.path=model0", "run_dir=run",
        "+evaluate.encoders.uniform=model0", "+evaluate.encoders.other=model1",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    ended = command("+experiment=report", "report.runs=[run]", "run_dir=out")
    assert ended.code == 0, ended.err
    assert "Gain in nDCG@10, average over sets" in ended.out
    assert "Report: out/report.html and out/report.md" in ended.out  # no browser is opened
    gains = ended.out.partition("average over sets")[2].splitlines()  # in parts; the first counts
    rows = {line.split("  ")[0]: line for line in reversed(gains)}
    assert rows["other"].split()[1:4] == ["uniform", "2", "90"]
    bm25, other = json.loads((folder / "out" / "significance.json").read_text())
    assert (bm25["retriever"], other["retriever"]) == ("bm25", "other")
    metrics = json.loads((folder / "run" / "metrics.json").read_text())["retrievers"]
    ndcg = {
        label: [100 * metrics[label]["sets"][name]["ndcg@10"] for name in JUDGED]
        for label in ("bm25", "uniform")
    }
    means = {label: nq / 2 + (one + two) / 4 for label, (nq, one, two) in ndcg.items()}
    assert bm25["average"]["difference"] == pytest.approx(means["bm25"] - means["uniform"])
    assert bm25["average"]["test"]["low"] < bm25["average"]["difference"]
    assert list(bm25["sets"]) == ["nq", "group"]
    assert bm25["sets"]["group"]["queries"] == 60
    assert 0 < bm25["average"]["test"]["t_test"] <= bm25["average"]["t_test_holm"] <= 1
    for name in ("report.md", "report.html", "tables.tex"):
        text = (folder / "out" / name).read_text()
        assert "in the layout of the paper" in text
        assert "30 queries" in text


def test_a_baseline_that_no_retriever_is_ends_with_one_message(command, folder: Path) -> None:
    ended = command(
        "+experiment=evaluate", "benchmark=made", "model=tiny", "model.path=model0", "run_dir=run",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    asked = ("+experiment=report", "report.runs=[run]", "run_dir=out")
    ended = command(*asked, "report.baselines=[uniform,unifrom]")
    assert ended.code == 2
    assert ended.err.startswith("error: report.baselines: no retriever has the label or run name")
    assert "'unifrom'; there are bm25, " in ended.err
    ended = command(*asked, "report.baselines=[]")
    assert (ended.code, "report.baselines=[] must name" in ended.err) == (2, True)
    ended = command(*asked, "report.baseline=bm25")  # the key of earlier versions
    assert (ended.code, "did you mean report.baselines?" in ended.err) == (2, True)
    for baselines in ("[bm25]", "bm25"):
        ended = command(*asked, f"report.baselines={baselines}")
        assert ended.code == 0, ended.err
        assert "no table of gains: only the baseline is evaluated" in ended.out
