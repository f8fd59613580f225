"""The README's recipe, command by command, on made-up domains and an evaluation set."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.command import run
from tests.made_up import rows, write_inputs

ROOT = Path(__file__).parents[2]
SMALL = (
    "model.path=model", "model.lora=null", "data.query_tokens=40", "data.passage_tokens=16",
    "logger.wandb=disabled",
)  # fmt: skip
TRAINED = (
    "domains=made", "data.batch_size=6", "data.workers=0", "trainer.precision=32-true",
    "trainer.steps=2",
)  # fmt: skip


def recipe() -> list[list[str]]:
    """The arguments of the commands of the README's first block of them that has a report."""
    blocks = re.findall(r"```sh\n(.+?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    block = next(b for b in blocks if "+experiment=report" in b).replace("\\\n", " ")
    return [shlex.split(line)[3:] for line in block.splitlines() if line.startswith("python")]


def write_set(folder: Path) -> None:
    """An evaluation set of 20 queries, as `benchmark=made`."""
    place = folder / "eval" / "one"
    (place / "qrels").mkdir(parents=True)
    made = rows("easy", 20, 3)
    documents = [
        {"_id": f"d{i}", "title": "", "text": row["positive_passages"][0]["text"]}
        for i, row in enumerate(made)
    ]
    queries = [{"_id": f"q{i}", "text": row["query"]} for i, row in enumerate(made)]
    (place / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (place / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(20))]
    (place / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    option = "root: eval\nsets:\n  one: {folder: one, split: test, prompt: null}\n"
    (folder / "conf" / "benchmark").mkdir(parents=True)
    (folder / "conf" / "benchmark" / "made.yaml").write_text(option)


def test_it_ends_in_a_table_of_gains(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_inputs(tmp_path)
    write_set(tmp_path)
    out = ""
    for given in recipe():
        experiment = given[0].removeprefix("+experiment=")
        arguments = ["--config-dir=conf", *(a for a in given if not a.startswith("benchmark="))]
        if experiment != "report":
            arguments += [*SMALL, *(TRAINED if experiment != "evaluate" else ())]
        if experiment in ("evaluate", "finetune_top70"):  # this one evaluates itself besides
            arguments.append("benchmark=made")
        ended = run(capfd, tmp_path, *arguments)
        assert ended.code == 0, (given, ended.err)
        out = ended.out
    (report,) = tmp_path.glob("runs/report/*/report.md")
    text = report.read_text()
    table = text.partition("**Gain in nDCG@10, average over sets")[2].partition("\n\n")[2]
    shown = [line.split(" | ")[0].strip("| ") for line in table.splitlines()[2:5]]
    assert sorted(shown) == ["bm25", "reweighted", "top 70"]
    results = out.partition("──\n")[2].partition("\n\n")[0]
    scores = [line.split("  ")[0] for line in results.splitlines()]
    assert sorted(scores) == ["bm25", "reweighted", "top 70", "uniform"]
    assert "no table of gains" not in out
    assert "Without a gain" not in out
