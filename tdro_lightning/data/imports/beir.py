"""Training judgements in BEIR's layout."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tdro_lightning.data.jsonl import read_lines, read_objects
from tdro_lightning.errors import DataError

HEADER = "query-id\tcorpus-id\tscore"
DOWNLOAD = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"


def beir_files(folder: Path, split: str) -> dict[str, Path]:
    """The corpus, queries and judgements of a folder, each plain or gzipped.

    Raises:
        DataError: one is missing; the message says how to get it.
    """
    names = {"corpus": "corpus.jsonl", "queries": "queries.jsonl", "qrels": f"qrels/{split}.tsv"}
    files = {}
    for label, name in names.items():
        found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not found:
            raise DataError(
                f"{folder / name}: no such file, nor {Path(name).name}.gz; get the set with "
                f"`wget {DOWNLOAD}/{folder.name}.zip && unzip {folder.name}.zip -d {folder.parent}`"
            )
        files[label] = found[0]
    return files


def beir(files: dict[str, Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One row for each judged query, in the queries' order.

    Documents judged above 0 are positives, best first, the others negatives. Documents that the
    corpus lacks come without a text.

    Raises:
        DataError: a malformed line, or a judged query that has no text.
    """
    judged = _judged(files["qrels"])
    wanted = {document for grades in judged.values() for document in grades}
    documents = {}
    for number, value in read_objects(files["corpus"]):
        if _id(value, files["corpus"], number) in wanted:
            documents[value["_id"]] = value
    for number, value in read_objects(files["queries"]):
        grades = judged.pop(_id(value, files["queries"], number), None)
        if grades is None:
            continue
        best_first = sorted(grades, key=lambda document: (-grades[document], document))
        yield (
            f"{files['queries']}:{number}",
            {
                "query_id": value["_id"],
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


def _id(value: dict[str, Any], path: Path, number: int) -> str:
    if not isinstance(value.get("_id"), str):
        raise DataError(f"{path}:{number}: `_id` must be a string, is {value.get('_id')!r}")
    return value["_id"]


def _judged(path: Path) -> dict[str, dict[str, int]]:
    judged: dict[str, dict[str, int]] = {}
    for number, ended in read_lines(path):
        line, place = ended.rstrip("\r\n"), f"{path}:{number}"
        if number == 1:
            if line != HEADER:
                raise DataError(f"{place}: the header must be {HEADER!r}, is {line!r}")
        elif line.strip():
            try:
                query, document, grade = line.split("\t")
                judged.setdefault(query, {})[document] = int(grade)
            except ValueError:
                raise DataError(
                    f"{place}: expected query, document and a whole number, got {line!r}"
                ) from None
    if not judged:
        raise DataError(f"{path}: no judgements in it")
    return judged
