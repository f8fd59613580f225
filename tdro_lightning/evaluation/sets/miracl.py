"""MIRACL's layout: topics and judgements as tables, the passages of a language in shards.

The documents are all passages of the published corpus (v1.0) of the language, title and text joined
by a space, as they are: nothing is cut, filtered or merged. The reference implementation and others
join them otherwise (by a line break, say), which moves the scores a little.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from tdro_lightning.data.beir_files import judgement
from tdro_lightning.data.characters import is_blank
from tdro_lightning.data.jsonl import read_lines
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.benchmark import Questions, validate_questions
from tdro_lightning.evaluation.corpus import Corpus, stored_corpus
from tdro_lightning.evaluation.sets.beir import read_documents

_SHARD = re.compile(r"docs-(\d+)\.jsonl\.gz")


def miracl_shards(folder: Path) -> list[Path]:
    """The files `docs-0.jsonl.gz`, `docs-1.jsonl.gz`, ... of a language's corpus, in order.

    Raises:
        DataError: there is none, or one is missing between the others.
    """
    numbers = [int(m[1]) for p in folder.glob("docs-*") if (m := _SHARD.fullmatch(p.name))]
    paths = [folder / f"docs-{number}.jsonl.gz" for number in range(max(numbers, default=0) + 1)]
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file")
    return paths


def miracl_corpus(folder: Path) -> Corpus:
    """Read the passages of a language.

    Raises:
        DataError: a shard is missing, damaged or malformed, or a docid is a duplicate.
    """
    shards = miracl_shards(folder)
    return stored_corpus(lambda: read_documents(shards, "docid"), folder, "miracl")


def miracl_questions(folder: Path, language: str, split: str) -> Questions:
    """Read a language's `topics/topics.<...>.tsv` and `qrels/qrels.<...>.tsv`.

    Raises:
        DataError: a file is missing or malformed, or as in `validate_questions`.
    """
    name = f"miracl-v1.0-{language}-{split}.tsv"
    topics, qrels = folder / "topics" / f"topics.{name}", folder / "qrels" / f"qrels.{name}"
    queries: dict[str, str] = {}
    for place, (query, text) in _cells(topics, 2):
        if query in queries:
            raise DataError(f"{place}: query {query!r} is a duplicate")
        if is_blank(text):
            raise DataError(f"{place}: query {query!r} has no text")
        queries[query] = text
    judgements = [
        judgement(place, query, document, grade)
        for place, (query, _, document, grade) in _cells(qrels, 4)
    ]
    return validate_questions(Questions(queries, judgements, {}), str(folder))


def _cells(path: Path, columns: int) -> Iterator[tuple[str, list[str]]]:
    """Place and columns of each line; the last column holds what is left of the line."""
    for number, line in read_lines(path):
        cells = line.rstrip("\r\n").split("\t", columns - 1)
        if len(cells) != columns:
            raise DataError(
                f"{path}:{number}: expected {columns} columns divided by tabs, got {line!r}"
            )
        yield f"{path}:{number}", cells
