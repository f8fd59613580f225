"""The evaluation of a published model as a user runs it, by name, and its report."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.command import run
from tests.made_hub import COMMIT, hub_cache, snapshot
from tests.made_up import WORDS
from tests.published_tdro import BASES, vectors, write_adapter, write_base

NAME = "s2-tdro-Qwen1.5-0.5B-top70"
BASE = BASES["Qwen1.5-0.5B"]
TASK = "Given a scientific claim, retrieve documents that support or refute the claim"
DOCUMENTS, QUERIES = 60, 12


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    """Documents, and queries that share words with them."""
    random = np.random.default_rng(0)
    documents = [" ".join(random.choice(WORDS, 6)) for _ in range(DOCUMENTS)]
    return documents, [" ".join(documents[3 * i].split()[:3]) for i in range(QUERIES)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, texts: tuple[list[str], list[str]]) -> Path:
    """A folder with SciFact's name, a base model, and a published adapter of it."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "scifact/qrels").mkdir(parents=True)
    for name, sign, rows in zip(("corpus", "queries"), "dq", texts, strict=True):
        lines = [json.dumps({"_id": f"{sign}{i}", "text": text}) for i, text in enumerate(rows)]
        (folder / f"scifact/{name}.jsonl").write_text("\n".join(lines) + "\n")
    judged = "".join(f"q{i}\td{3 * i}\t1\n" for i in range(QUERIES))
    (folder / "scifact/qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    (folder / "conf/benchmark").mkdir(parents=True)
    (folder / "conf/benchmark/made.yaml").write_text(
        f"root: .\nsets: {{scifact: {{folder: scifact, split: test, prompt: '{TASK}'}}}}\n"
    )
    write_base(BASE, folder / "base")
    write_adapter(BASE, folder / "base", folder / NAME, ends=False, named="../base")
    return folder


def evaluate(capfd: pytest.CaptureFixture[str], place: Path, source: str, *more: str) -> float:
    """Run the experiment; returns the average of its metrics."""
    ended = run(
        capfd, place, "--config-dir=conf", "+experiment=evaluate_published", "benchmark=made",
        f"+evaluate.encoders.top70={source}", "run_dir=run", "trainer.resume=never", *more,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    metrics = json.loads((place / "run/metrics.json").read_text())
    assert list(metrics["retrievers"]) == ["top70"]
    return float(metrics["retrievers"]["top70"]["average"]["ndcg@10"])


def expected(place: Path, texts: tuple[list[str], list[str]]) -> float:
    """nDCG@10 of the vectors that transformers and PEFT make; one document a query counts."""
    documents, queries = texts
    read = [f"Instruct: {TASK}\nQuery: {text}" for text in queries]
    wanted, given = (
        vectors(BASE, place / "base", place / NAME, rows, limit, batched=True)
        for rows, limit in ((read, 128), (documents, 512))
    )
    scores = wanted @ given.T
    own = scores[np.arange(QUERIES), 3 * np.arange(QUERIES)]
    ranks = (scores > own[:, None]).sum(axis=1)
    return float(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean())


def test_a_folder_scores_what_the_libraries_would_and_is_reported(
    place: Path, texts: tuple[list[str], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    reference = expected(place, texts)
    assert 0.05 < reference < 0.99
    found = evaluate(capfd, place, NAME, "model.dtype=float32")
    assert found == pytest.approx(reference, abs=1e-6)
    reported = run(
        capfd, place, "+experiment=report", "report.runs=[run]", "run_dir=report"
    )  # fmt: skip
    assert reported.code == 0, reported.err
    assert "Published models beside the paper" in reported.out
    page = (place / "report/report.md").read_text()
    here = f"{100 * found:.1f}"
    assert any(line.startswith("| Here") and here in line for line in page.splitlines())


def test_a_name_of_the_hub_gives_the_same_in_bf16(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_folder = evaluate(capfd, place, NAME)
    cache = hub_cache(tmp_path, monkeypatch)
    content = {file.name: file.read_bytes() for file in (place / NAME).iterdir()}
    settings = json.loads(content["adapter_config.json"])
    settings["base_model_name_or_path"] = "Qwen/Qwen1.5-0.5B"
    content["adapter_config.json"] = json.dumps(settings).encode()
    snapshot(cache, f"tdro-llm/{NAME}", content, kind="model")
    base = {file.name: file.read_bytes() for file in (place / "base").iterdir()}
    snapshot(cache, "Qwen/Qwen1.5-0.5B", base, kind="model")
    assert evaluate(capfd, place, f"tdro-llm/{NAME}") == by_folder
    record = json.loads((place / "run/run.json").read_text())
    assert record["config"]["model"]["dtype"] == "bfloat16"
    assert record["inputs"]["encoder top70"] == {
        "path": f"tdro-llm/{NAME}", "sha256": None, "commit": COMMIT,
    }  # fmt: skip
