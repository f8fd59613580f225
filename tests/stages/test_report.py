"""Evaluation and report as a user runs them, on made-up sets."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Ended, run
from tests.made_up import WORDS, tiny_model

SETS = ("nq", "group/one", "group/two")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models, and three evaluation sets of which two are a group, in BEIR's layout."""
    draw = random.Random(0)
    for name in SETS:
        place = tmp_path / "eval" / name
        (place / "qrels").mkdir(parents=True)
        texts = [" ".join(draw.sample(WORDS, 6)) for _ in range(60)]
        documents = [
            json.dumps({"_id": f"d{i}", "title": "", "text": t}) for i, t in enumerate(texts)
        ]
        queries = [
            json.dumps({"_id": f"q{i}", "text": " ".join(texts[i].split()[:2])}) for i in range(30)
        ]
        (place / "corpus.jsonl").write_text("\n".join(documents))
        (place / "queries.jsonl").write_text("\n".join(queries))
        lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(30))]
        (place / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    option = ["root: eval", "sets:"]
    option += [f"  {name}: {{folder: {name}, split: test, prompt: null}}" for name in SETS]
    (tmp_path / "conf" / "benchmark").mkdir(parents=True)
    (tmp_path / "conf" / "benchmark" / "made.yaml").write_text("\n".join(option) + "\n")
    for seed in range(2):
        tiny_model(tmp_path / f"model{seed}", seed=seed)
    return tmp_path


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], folder: Path) -> Callable[..., Ended]:
    def start(*arguments: str) -> Ended:
        return run(capfd, folder, "--config-dir=conf", *arguments)

    return start


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
        label: [100 * metrics[label]["sets"][name]["ndcg@10"] for name in SETS]
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
    ended = command("+experiment=report", "report.runs=[run]", "report.baseline=unifrom")
    assert ended.code == 2
    assert ended.err.startswith("error: report.baseline=unifrom: no retriever has that label")
    ended = command(
        "+experiment=report", "report.runs=[run]", "report.baseline=bm25", "run_dir=out"
    )
    assert ended.code == 0, ended.err
