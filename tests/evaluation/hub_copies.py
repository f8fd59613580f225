"""Small datasets in the layouts in which the benchmarks are published, three queries each."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets

datasets.disable_progress_bars()

DOCUMENTS = [
    {"_id": "d1", "title": "Red stone", "text": "a red stone lies in the river"},
    {"_id": "d2", "title": "", "text": "blue birds fly by day and by night"},
    {"_id": "d3", "title": "Green tree", "text": "the large green tree by the river"},
    {"_id": "d4", "title": "Small fish", "text": "a small round fish in the blue river"},
    {"_id": "d5", "title": "", "text": "clouds at night, a red cloud by day"},
    {"_id": "d6", "title": "Square", "text": "a square stone and a round stone"},
]
QUERIES = [
    {"_id": "q1", "text": "red stone in a river"},
    {"_id": "q2", "text": "birds at night"},
    {"_id": "q3", "text": "round things"},
]
GRADES = {"q1": {"d1": 2, "d4": 1}, "q2": {"d2": 1, "d5": 1}, "q3": {"d6": 1, "d4": 2, "d3": 0}}
README = """---
configs:
- config_name: default
  data_files:
  - {{split: {split}, path: qrels/{split}.*}}
- config_name: corpus
  data_files:
  - {{split: corpus, path: corpus{suffix}}}
- config_name: queries
  data_files:
  - {{split: queries, path: queries{suffix}}}
---
"""


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")


def write_beir(folder: Path, split: str = "test") -> None:
    """As in BEIR's downloads."""
    write_lines(folder / "corpus.jsonl", DOCUMENTS)
    write_lines(folder / "queries.jsonl", QUERIES)
    lines = [f"{q}\t{d}\t{g}\n" for q, found in GRADES.items() for d, g in found.items()]
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / f"qrels/{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def judged() -> list[dict[str, Any]]:
    return [
        {"query-id": q, "corpus-id": d, "score": g}
        for q, found in GRADES.items()
        for d, g in found.items()
    ]


def write_hub_lines(folder: Path, split: str = "test") -> None:
    """As most of MTEB's datasets on the hub: lines of JSON, and a README that lists them."""
    write_lines(folder / "corpus.jsonl", DOCUMENTS)
    write_lines(folder / "queries.jsonl", QUERIES)
    write_lines(folder / f"qrels/{split}.jsonl", judged())
    (folder / "README.md").write_text(README.format(split=split, suffix=".jsonl"))


def write_hub_tables(folder: Path, split: str = "test") -> None:
    """As MTEB's newer datasets: tables in shards, here the corpus in two."""
    names = [f"corpus/corpus-{i:05d}-of-00002.parquet" for i in range(2)]
    parts = [DOCUMENTS[:4], DOCUMENTS[4:]]
    names += ["queries/queries-00000-of-00001.parquet", f"qrels/{split}.parquet"]
    for name, rows in zip(names, [*parts, QUERIES, judged()], strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(folder / name)
    (folder / "README.md").write_text(README.format(split=split, suffix="/*"))


def write_miracl(root: Path, language: str) -> None:
    """As miracl/miracl and miracl/miracl-corpus on the hub."""
    topics = root / "miracl" / f"miracl-v1.0-{language}"
    name = f"miracl-v1.0-{language}-dev.tsv"
    for folder in ("topics", "qrels"):
        (topics / folder).mkdir(parents=True)
    lines = [f"{number}\t{query['text']}\n" for number, query in enumerate(QUERIES)]
    (topics / "topics" / f"topics.{name}").write_text("".join(lines))
    numbers = {query["_id"]: number for number, query in enumerate(QUERIES)}
    lines = [
        f"{numbers[q]}\tQ0\t7#{d}\t{min(g, 1)}\n"
        for q, found in GRADES.items()
        for d, g in found.items()
    ]
    (topics / "qrels" / f"qrels.{name}").write_text("".join(lines))
    passages = [
        {"docid": f"7#{d['_id']}", "title": d["title"] or "Nature", "text": d["text"]}
        for d in DOCUMENTS
    ]
    corpus = root / "miracl-corpus" / f"miracl-corpus-v1.0-{language}"
    write_lines(corpus / "docs-0.jsonl.gz", passages[:4])
    write_lines(corpus / "docs-1.jsonl.gz", passages[4:])


def answer(kind: str, text: str | None, *aliases: str) -> dict[str, Any]:
    return {"type": kind, "entity": "Q1", "text": text, "aliases": list(aliases)}


MKQA = [
    (11, [answer("entity", "Red Stone", "crimson stone")], "stone river", "was liegt im Fluss"),
    (-12, [answer("entity", "Owls", "Blue birds", "")], "night birds", "was fliegt bei Nacht"),
    (13, [answer("number", "7.0", "7")], "how many a stone", "wie viele Steine"),
    (14, [answer("unanswerable", None)], "why", "warum"),
    (15, [answer("binary", "yes")], "is the tree green", "ist der Baum grün"),
    (16, [answer("long_answer", "because of the large green tree")], "why tree", "weshalb"),
]


def mkqa_rows() -> list[dict[str, Any]]:
    return [
        {
            "query": english,
            "answers": {"en": answers, "de": [answer("entity", "Fluss")]},
            "queries": {"en": english, "de": german},
            "example_id": number,
        }
        for number, answers, english, german in MKQA
    ]


def write_mkqa(root: Path) -> None:
    """The file of github.com/apple/ml-mkqa, and BEIR's Natural Questions."""
    write_lines(root / "mkqa" / "mkqa.jsonl.gz", mkqa_rows())
    write_beir(root / "nq")


def write_mkqa_tables(root: Path) -> None:
    """As apple/mkqa on the hub, in its branch of converted tables: types are numbers there."""
    kinds = ["entity", "long_answer", "unanswerable", "date", "number", "number_with_unit"]
    answers = {
        "type": datasets.ClassLabel(names=[*kinds, "short_phrase", "binary"]),
        "entity": datasets.Value("string"),
        "text": datasets.Value("string"),
        "aliases": [datasets.Value("string")],
    }
    text = datasets.Value("string")
    features = datasets.Features(
        {
            "query": text,
            "answers": {"en": [answers], "de": [answers]},
            "queries": {"en": text, "de": text},
            "example_id": text,
        }
    )
    rows = [row | {"example_id": str(row["example_id"])} for row in mkqa_rows()]
    folder = root / "mkqa" / "mkqa" / "train"
    folder.mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "0000.parquet")
    write_hub_tables(root / "nq")
