"""A made-up set with graded judgements, in the layout of the hub, and MTEB's task of it."""

from pathlib import Path
from typing import Any

from tests.evaluation.hub_copies import README, write_lines
from tests.made_up import rows


def write_judged_set(folder: Path, prompt: str) -> None:
    """60 queries and 480 documents in `data/made`, and `--config-dir=conf benchmark=made`."""
    found = rows("easy", 60, 4)
    queries = [{"_id": row["query_id"], "text": row["query"]} for row in found]
    passages = [p for row in found for p in row["positive_passages"] + row["negative_passages"]]
    documents = [
        {"_id": f"d{i}", "title": f"blue {i}" if i % 2 else "", "text": passage["text"]}
        for i, passage in enumerate(passages)
    ]
    judged = [
        {"query-id": query["_id"], "corpus-id": f"d{i}", "score": i % 3}
        for q, query in enumerate(queries)
        for i in range(q % 7, len(documents), 7)
    ]
    write_lines(folder / "data/made/corpus.jsonl", documents)
    write_lines(folder / "data/made/queries.jsonl", queries)
    write_lines(folder / "data/made/qrels/test.jsonl", judged)
    (folder / "data/made/README.md").write_text(README.format(split="test", suffix=".jsonl"))
    (folder / "conf/benchmark").mkdir(parents=True)
    entry = f'{{folder: made, split: test, prompt: "{prompt}"}}'
    option = f"root: data\nsets:\n  made: {entry}\n"
    (folder / "conf/benchmark/made.yaml").write_text(option)


def mteb_task(folder: Path) -> Any:
    """MTEB's task `made` of the set in `data/made`."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Made(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="made",
            description="made up",
            reference=None,
            dataset={"path": str(folder / "data/made"), "revision": "local"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

    return Made()
