"""What the readers of FlagEmbedding and NeMo Automodel make of an exported mixture.

    python experiments/other_trainers/read_back.py flag_embedding RUN FOLDER
    python experiments/other_trainers/read_back.py nemo_automodel RUN FOLDER

RUN is the run folder of stage=mixture, FOLDER the unpacked wheel of the other project. Prints the
rows that its own data set has, how many come from each domain, and whether batches are of one.
"""

import json
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

BATCH = 64


def domains_of_queries(run: Path, folder: str) -> dict[str, set[str]]:
    """The domains in whose exported files a query stands."""
    found: dict[str, set[str]] = {}
    for path in sorted((run / folder).glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            found.setdefault(json.loads(line)["query"], set()).add(path.name.split(".")[0])
    return found


def flag_embedding(run: Path, known: dict[str, set[str]]) -> dict[str, Any]:
    """Rows of its data set of homogeneous batches, and the domains of each batch."""
    from FlagEmbedding.abc.finetune.embedder.AbsArguments import AbsEmbedderDataArguments
    from FlagEmbedding.abc.finetune.embedder.AbsDataset import AbsEmbedderSameDatasetTrainDataset

    arguments = AbsEmbedderDataArguments(
        train_data=(run / "flag_embedding/train_data.txt").read_text().split(),
        cache_path=str(run / "cache"),
        train_group_size=4,
        same_dataset_within_batch=True,
        query_instruction_for_retrieval="",  # else it puts the word None before every query
    )
    rows = AbsEmbedderSameDatasetTrainDataset(arguments, BATCH, 42, None)
    batches = [rows[0][0] for _ in range(len(rows))]
    of_one = sum(bool(set.intersection(*(known[query] for query in batch))) for batch in batches)
    return {
        "rows": len(rows.dataset),
        "by domain": Counter(min(known[query]) for query in rows.dataset["query"]),
        "batches": len(batches),
        "of one domain": of_one,
    }


def nemo_automodel(run: Path, known: dict[str, set[str]]) -> dict[str, Any]:
    """Rows of its retrieval data set."""
    from nemo_automodel.components.datasets.llm.retrieval_dataset import make_retrieval_dataset

    sources = yaml.safe_load((run / "nemo_automodel/data_dir_list.yaml").read_text())
    rows = make_retrieval_dataset(sources["data_dir_list"], n_passages=4, seed=42)
    queries = rows.with_format(None)["question"]
    passages = {len(rows[number]["doc_text"]) for number in range(0, len(rows), 97)}
    return {
        "rows": len(rows),
        "by domain": Counter(min(known[query]) for query in queries),
        "passages a row": sorted(passages),
    }


def main() -> None:
    """Read with the named project's own code."""
    name, run, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    sys.path.insert(0, str(folder))
    if name == "nemo_automodel":  # its __init__ files import libraries for GPUs
        parts = ["nemo_automodel", "components", "datasets", "llm"]
        for end in range(1, len(parts) + 1):
            package = types.ModuleType(".".join(parts[:end]))
            package.__path__ = [str(folder.joinpath(*parts[:end]))]
            sys.modules[package.__name__] = package
    read = {"flag_embedding": flag_embedding, "nemo_automodel": nemo_automodel}[name]
    for title, value in read(run, domains_of_queries(run, name)).items():
        print(f"{title}: {dict(sorted(value.items())) if isinstance(value, Counter) else value}")


if __name__ == "__main__":
    main()
