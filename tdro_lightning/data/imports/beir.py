"""Training judgements in BEIR's layout."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tdro_lightning.data.beir_files import (
    grades_by_query,
    plain_or_zipped,
    read_judgements,
    read_queries,
)
from tdro_lightning.data.fields import identifier
from tdro_lightning.data.jsonl import read_objects
from tdro_lightning.errors import DataError

DOWNLOAD = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"


def beir_files(folder: Path, split: str) -> dict[str, Path]:
    """The corpus, queries and judgements of a folder, each plain or gzipped.

    Raises:
        DataError: one is missing, or both plain and gzipped; the message says how to get the set.
    """
    names = {"corpus": "corpus.jsonl", "queries": "queries.jsonl", "qrels": f"qrels/{split}.tsv"}
    try:
        return {label: plain_or_zipped(folder, name) for label, name in names.items()}
    except DataError as error:
        raise DataError(
            f"{error}; get the set with "
            f"`wget {DOWNLOAD}/{folder.name}.zip && unzip {folder.name}.zip -d {folder.parent}`"
        ) from None


def beir(files: dict[str, Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One row for each judged query, in the queries' order.

    Documents judged above 0 are positives, best first, the others negatives. Documents that the
    corpus lacks come without a text.

    Raises:
        DataError: a malformed line, judgements that contradict each other, or a judged query that
            is missing.
    """
    judged = grades_by_query(read_judgements(files["qrels"]))
    wanted = {document for grades in judged.values() for document in grades}
    documents: dict[str, dict[str, Any]] = {}
    for number, value in read_objects(files["corpus"]):
        found = identifier(value, "_id", f"{files['corpus']}:{number}")
        if found in documents:
            raise DataError(f"{files['corpus']}:{number}: document {found!r} is a duplicate")
        if found in wanted:
            documents[found] = value
    for place, query, value in read_queries(files["queries"]):
        grades = judged.pop(query, None)
        if grades is None:
            continue
        best_first = sorted(grades, key=lambda document: (-grades[document], document))
        yield (
            place,
            {
                "query_id": query,
                "query": value.get("text"),
                "positive_passages": [_passage(d, documents) for d in best_first if grades[d] > 0],
                "negative_passages": [_passage(d, documents) for d in best_first if grades[d] <= 0],
            },
        )
    if judged:
        raise DataError(
            f"{files['queries']}: {len(judged)} judged queries are missing, among them "
            f"{min(judged)!r}"
        )


def _passage(document: str, documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    value = documents.get(document, {})
    return {"docid": document, "title": value.get("title"), "text": value.get("text")}
